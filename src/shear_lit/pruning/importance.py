"""How much each unit matters, by the gates themselves: gradients of the loss in each gate, all open.

The mean of their squares is the second-order estimate of what a unit's removal costs, with the Fisher information for
the Hessian (arXiv:1906.10771, section 3.1, where it is computed per gate as here); the size of their mean is the
first-order one (arXiv:1611.06440, section 2.2). They need no table entry and no hook of their own.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shear_lit.pruning.attach import AttachedGates
from shear_lit.pruning.settings import Pruning
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.shape import Axis, ModelShape

Importance = dict[Axis, Float[Tensor, "..."]]
"""Importance by axis, each of ``ModelShape.gate_shape(axis)``; larger is more important. Only the order counts."""


class GradientSums(NamedTuple):
    """Sums over batches of the gradient of the loss in each gate of one axis."""

    squared: Float[Tensor, "..."]
    """Of its square."""
    signed: Float[Tensor, "..."]
    """Of itself."""


_ORDERED_SHARE = 0.1


def gate_gradients(
    attached: AttachedGates,
    loss_of: Callable[[Any], Tensor],
    batches: Iterable[Any],
    *,
    source: ModelShape,
    axes: tuple[Axis, ...],
    device: torch.device,
) -> tuple[dict[Axis, GradientSums], int]:
    """Sums of gradients over ``batches``, and their number; to be added up over ranks.

    Computes in the type of the weights, also inside autocast: an order must not depend on the precision of the run that
    starts from it. Runs backward through the whole model: the gradients that this leaves in its weights are the
    caller's to clear.
    """
    sums = {
        axis: GradientSums(*(torch.zeros(source.gate_shape(axis), device=device) for _ in range(2)))
        for axis in axes
    }
    count = 0
    for batch in batches:
        gates = {axis: torch.ones_like(total.squared, requires_grad=True) for axis, total in sums.items()}
        attached.set(gates)
        with torch.autocast(device.type, enabled=False):
            loss_of(batch).backward()
        for axis, gate in gates.items():
            assert gate.grad is not None
            sums[axis].squared.add_(gate.grad.square())
            sums[axis].signed.add_(gate.grad)
        count += 1
    attached.set({})
    return sums, count


def initial_log_alpha(importance: Mapping[Axis, Tensor], pruning: Pruning) -> dict[Axis, Tensor]:
    """Where the gates of a run start, in the order of ``importance``."""
    start = ordered_log_alpha if pruning.constraint == "exact" else ranked_log_alpha
    return start(importance, pruning.shape, gap=pruning.initial_gap)


def ranked_log_alpha(
    importance: Mapping[Axis, Tensor], target: ModelShape, *, gap: float
) -> dict[Axis, Tensor]:
    """A start for the gates: the most important units of a row, as many as ``target`` keeps, at the top.

    The others begin ``gap`` below, the more important among them up to a tenth of it higher.
    """
    start = {}
    for axis, values in importance.items():
        rank = _rank(values)
        kept, units = target.units(axis), values.shape[-1]
        # Among the units beyond the target: 0 for the least important, close to 1 for the first.
        standing = (units - 1 - rank) / max(1, units - kept)
        beyond = LOG_ALPHA_LIMIT - gap * (1 - _ORDERED_SHARE * standing)
        start[axis] = torch.where(rank < kept, LOG_ALPHA_LIMIT, beyond).clamp(min=-LOG_ALPHA_LIMIT)
    return start


def ordered_log_alpha(
    importance: Mapping[Axis, Tensor], target: ModelShape, *, gap: float
) -> dict[Axis, Tensor]:
    """A start for gates of an exact size: every row evenly spread over their range, in the order of importance.

    The last unit that ``target`` keeps and the first that it does not are ``gap`` further apart than others.
    """
    start = {}
    for axis, values in importance.items():
        rank, units = _rank(values), values.shape[-1]
        spacing = (2 * LOG_ALPHA_LIMIT - gap) / units
        start[axis] = (
            LOG_ALPHA_LIMIT - spacing * (rank + 0.5) - torch.where(rank < target.units(axis), 0.0, gap)
        )
    return start


def _rank(values: Tensor) -> Tensor:
    """0 for the largest of each row; of equal ones, the first comes first."""
    return values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
