"""How much each unit matters, by the gates themselves: mean squared gradient of the loss in each gate, all open.

The second-order estimate of what a unit's removal costs, with the Fisher information for the Hessian
(arXiv:1906.10771, section 3.1, where it is computed per gate as here). It needs no table entry and no hook of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from shear_lit.pruning.attach import AttachedGates
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.shape import Axis, ModelShape

Importance = dict[Axis, Float[Tensor, "..."]]
"""Mean squared gradients by axis, each of ``ModelShape.gate_shape(axis)``; larger is more important."""


_ORDERED_SHARE = 0.1


def squared_gradients(
    attached: AttachedGates,
    loss_of: Callable[[Any], Tensor],
    batches: Iterable[Any],
    *,
    source: ModelShape,
    axes: tuple[Axis, ...],
    device: torch.device,
) -> tuple[Importance, int]:
    """Sums of squared gradients over ``batches``, and their number; to be added up over ranks.

    Runs backward through the whole model: the gradients that this leaves in its weights are the caller's to clear.
    """
    sums = {axis: torch.zeros(source.gate_shape(axis), device=device) for axis in axes}
    count = 0
    for batch in batches:
        gates = {axis: torch.ones_like(total, requires_grad=True) for axis, total in sums.items()}
        attached.set(gates)
        loss_of(batch).backward()
        for axis, gate in gates.items():
            assert gate.grad is not None
            sums[axis] += gate.grad.square()
        count += 1
    attached.set({})
    return sums, count


def ranked_log_alpha(
    importance: Mapping[Axis, Tensor], target: ModelShape, *, gap: float
) -> dict[Axis, Tensor]:
    """A start for the gates: the most important units of a row, as many as ``target`` keeps, at the top.

    The others begin ``gap`` below, the more important among them up to a tenth of it higher.
    """
    start = {}
    for axis, values in importance.items():
        rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
        kept, units = target.units(axis), values.shape[-1]
        # Among the units beyond the target: 0 for the least important, close to 1 for the first.
        standing = (units - 1 - rank) / max(1, units - kept)
        beyond = LOG_ALPHA_LIMIT - gap * (1 - _ORDERED_SHARE * standing)
        start[axis] = torch.where(rank < kept, LOG_ALPHA_LIMIT, beyond).clamp(min=-LOG_ALPHA_LIMIT)
    return start
