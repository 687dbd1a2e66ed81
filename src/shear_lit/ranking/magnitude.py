"""How much each unit matters by its weights: the root of the sum of squares of all that goes with it, or ranges."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from shear_lit.models.family import Cut, Family, units_along
from shear_lit.ranking.importance import Importance
from shear_lit.theory.shape import Axis


def weight_magnitude(tensors: Iterable[tuple[str, Tensor]], family: Family) -> Importance:
    """Importance by axis. A layer has all of its block's weights; a KV head has its query heads' as well."""
    shape = family.shape
    sums = {axis: torch.zeros(shape.gate_shape(axis), dtype=torch.float64) for axis in Axis}
    for name, part in tensors:
        _, block = family.pattern(name)
        tensor = whole(part)
        if block is not None:
            sums[Axis.LAYERS][block] += tensor.detach().double().square().sum().cpu()
        for cut in family.cuts_of(name):
            units = _of_units(tensor, cut, units_along(shape, cut.axis))
            rows = sums[cut.axis] if block is None or cut.axis is Axis.HIDDEN else sums[cut.axis][block]
            rows += units.view(rows.shape)
    sums[Axis.KV_HEADS] += sums[Axis.QUERY_HEADS].sum(-1)
    return {axis: total.sqrt().float() for axis, total in sums.items()}


def weight_ranges(
    tensors: Iterable[tuple[str, Tensor]], family: Family
) -> Float[Tensor, "layers intermediate"]:
    """Largest less smallest weight of each feed-forward unit, summed over the matrices that it has a part in.

    Each matrix counts the same: its ranges are divided by their mean (after arXiv:2512.22671, which takes the ranges of
    gated feed-forward layers).
    """
    shape = family.shape
    ranges = torch.zeros(shape.gate_shape(Axis.INTERMEDIATE), dtype=torch.float64)
    for name, part in tensors:
        _, block = family.pattern(name)
        cuts = [cut for cut in family.cuts_of(name) if cut.axis is Axis.INTERMEDIATE and part.ndim == 2]
        if block is None or not cuts:
            continue
        tensor = whole(part).detach().cpu().double()
        for cut in cuts:
            piece = tensor.narrow(cut.dim, cut.offset, shape.intermediate * cut.entries)
            found = piece.amax(1 - cut.dim) - piece.amin(1 - cut.dim)
            ranges[block] += found / found.mean()
    return ranges


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may lie on several processes, which all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _of_units(tensor: Tensor, cut: Cut, units: int) -> Float[Tensor, "units"]:
    """The sum of squares of what goes with each unit along the dimension of ``cut``."""
    # A table of fused tensors says where the piece of this cut begins.
    piece = tensor.detach().narrow(cut.dim, cut.offset, units * cut.entries)
    squares = piece.double().square().movedim(cut.dim, 0).reshape(units, -1)
    return squares.sum(1).cpu()
