"""How much each unit matters, by the gates themselves: gradients of the loss in each gate, all open.

The mean of their squares is the second-order estimate of what a unit's removal costs, with the Fisher information for
the Hessian (arXiv:1906.10771, section 3.1, where it is computed per gate as here); the size of their mean is the
first-order one (arXiv:1611.06440, section 2.2). Both are of the gradients of one sequence each: the square of a
micro-batch's mean would be another number for every size of it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from shear_lit.ranking.importance import Importance, Passage, Sums
from shear_lit.theory.shape import Axis, ModelShape

SetGates = Callable[[dict[Axis, Tensor]], None]
"""Puts values of gates in force in a model; of axes without any, all are open."""


def gate_gradients(
    model: Callable[..., Any],
    set_gates: SetGates,
    text: Iterable[Passage],
    *,
    source: ModelShape,
    axes: tuple[Axis, ...],
    device: torch.device,
) -> Sums:
    """Sums over the passages of ``text`` of the gradient in each gate, of its square, and of 1.

    Computes in the type of the weights, also inside autocast: an order must not depend on the precision of the run that
    starts from it. Runs backward through the whole model: the gradients that this leaves in its weights are the
    caller's to clear.
    """
    shapes = {axis: source.gate_shape(axis) for axis in axes}
    sums = Sums(
        {f"{of} {axis.value}": shapes[axis] for axis in axes for of in ("squared", "signed")} | {"count": ()}
    )
    for passage in text:
        gates = {axis: torch.ones(shape, device=device, requires_grad=True) for axis, shape in shapes.items()}
        set_gates(gates)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            model(**passage.inputs, use_cache=False).loss.backward()
        if not passage.counts:
            continue
        sums.begin(passage)
        for axis, gate in gates.items():
            assert gate.grad is not None
            sums.add(f"squared {axis.value}", gate.grad.cpu().double().square())
            sums.add(f"signed {axis.value}", gate.grad)
        sums.add("count", torch.ones(()))
    set_gates({})
    return sums


def by_squared_gradients(sums: Mapping[str, Tensor]) -> Importance:
    """The mean squared gradient of each gate."""
    return _means(sums, "squared")


def by_mean_gradients(sums: Mapping[str, Tensor]) -> Importance:
    """The size of the mean gradient of each gate."""
    return {axis: values.abs() for axis, values in _means(sums, "signed").items()}


def _means(sums: Mapping[str, Tensor], of: str) -> Importance:
    count = sums["count"].clamp(min=1)
    return {
        Axis(name.removeprefix(f"{of} ")): (total / count).float()
        for name, total in sums.items()
        if name.startswith(f"{of} ")
    }
