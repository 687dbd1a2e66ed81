"""How much each unit matters by the size of its weights: the root of the sum of squares of all that goes with it."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from shear_lit.models.family import Cut, Family, units_along
from shear_lit.pruning.importance import Importance
from shear_lit.theory.shape import Axis


def weight_magnitude(tensors: Mapping[str, Tensor], family: Family) -> Importance:
    """Importance by axis. A layer has all of its block's weights; a KV head has its query heads' as well."""
    shape = family.shape
    sums = {axis: torch.zeros(shape.gate_shape(axis), dtype=torch.float64) for axis in Axis}
    for name, tensor in tensors.items():
        _, block = family.pattern(name)
        if block is not None:
            sums[Axis.LAYERS][block] += tensor.detach().double().square().sum().cpu()
        for cut in family.cuts_of(name):
            units = _of_units(tensor, cut, units_along(shape, cut.axis))
            rows = sums[cut.axis] if block is None or cut.axis is Axis.HIDDEN else sums[cut.axis][block]
            rows += units.view(rows.shape)
    sums[Axis.KV_HEADS] += sums[Axis.QUERY_HEADS].sum(-1)
    return {axis: total.sqrt().float() for axis, total in sums.items()}


def _of_units(tensor: Tensor, cut: Cut, units: int) -> Float[Tensor, "units"]:
    """The sum of squares of what goes with each unit along the dimension of ``cut``."""
    # A table of fused tensors says where the piece of this cut begins.
    piece = tensor.detach().narrow(cut.dim, cut.offset, units * cut.entries)
    squares = piece.double().square().movedim(cut.dim, 0).reshape(units, -1)
    return squares.sum(1).cpu()
