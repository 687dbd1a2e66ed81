"""Where gates start, and what a cut keeps, by an order of the units."""

from collections.abc import Mapping

import torch
from torch import Tensor

from shear_lit.pruning.constraints import GateValues
from shear_lit.ranking.importance import ranks
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.shape import Axis, ModelShape, shrinking_axes

ORDERED_SHARE = 0.1
"""Units beyond the target's number begin a gap below the top, the first of them this share of it higher."""


def initial_log_alpha(
    importance: Mapping[Axis, Tensor], target: ModelShape, *, is_exact: bool, gap: float
) -> dict[Axis, Tensor]:
    """Where the gates of a run start, in the order of ``importance``; ``is_exact``: of one that holds exact sizes."""
    start = ordered_log_alpha if is_exact else ranked_log_alpha
    return start(importance, target, gap=gap)


def ranked_log_alpha(
    importance: Mapping[Axis, Tensor], target: ModelShape, *, gap: float
) -> dict[Axis, Tensor]:
    """A start for the gates: the most important units of a row, as many as ``target`` keeps, at the top.

    The others begin ``gap`` below, the more important among them up to a tenth of it higher.
    """
    start = {}
    for axis, values in importance.items():
        rank = ranks(values)
        kept, units = target.units(axis), values.shape[-1]
        # Among the units beyond the target: 0 for the least important, close to 1 for the first.
        standing = (units - 1 - rank) / max(1, units - kept)
        beyond = LOG_ALPHA_LIMIT - gap * (1 - ORDERED_SHARE * standing)
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
        rank, units = ranks(values), values.shape[-1]
        spacing = (2 * LOG_ALPHA_LIMIT - gap) / units
        start[axis] = (
            LOG_ALPHA_LIMIT - spacing * (rank + 0.5) - torch.where(rank < target.units(axis), 0.0, gap)
        )
    return start


def ranked_gates(
    importance: Mapping[Axis, Tensor],
    source: ModelShape,
    target: ModelShape,
    *,
    blocks: tuple[int, ...] | None = None,
) -> GateValues:
    """Gates of exactly 1 for the most important units of every row, as many as ``target`` keeps, and 0 for others.

    ``blocks``: the blocks to keep, where they are not to be the most important ones.
    """
    gates: GateValues = {}
    for axis in shrinking_axes(source, target):
        if axis is Axis.LAYERS and blocks is not None:
            gates[axis] = torch.zeros(source.layers)
            gates[axis][list(blocks)] = 1.0
            continue
        # Stable: of units that are equal, the first are kept (deviation D10).
        order = importance[axis].argsort(dim=-1, descending=True, stable=True)[..., : target.units(axis)]
        gates[axis] = torch.zeros(source.gate_shape(axis)).scatter_(-1, order, 1.0)
    return gates
