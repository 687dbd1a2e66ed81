"""The shapes at which sizes rest on their way to the target, where they fall in stages."""

import math

from shear_lit.models.family import Family
from shear_lit.pruning.settings import Pruning
from shear_lit.theory.shape import Axis, ModelShape, ShapeError

_ROUNDING = 1e-6
"""Units that a size may be off a whole number by the rounding of its fraction."""


def whole_units(size: float) -> int:
    """The units that are open while less than one of them is asked to leave: ``size``, rounded up."""
    return math.ceil(size - _ROUNDING)


def stage_shapes(pruning: Pruning, family: Family, axes: tuple[Axis, ...]) -> tuple[ModelShape, ...]:
    """The shape of each stage of the fall, the last of them the target's; none where it has no stages.

    Every axis goes the same share of its way, rounded up to whole units. The hidden size is the nearest one that the
    family's stock config takes together with the heads.

    Raises:
        ShapeError: it takes none.
    """
    count, target = pruning.fall.stages, pruning.shape
    shapes = list[ModelShape]()
    for stage in range(1, count + 1):
        sizes = {axis: family.shape.units(axis) for axis in Axis}
        for axis in axes:
            start = (1 - pruning.start_sparsity_of(axis)) * family.shape.units(axis)
            sizes[axis] = whole_units(start + (target.units(axis) - start) * stage / count)
        widest = shapes[-1].hidden if shapes else family.shape.hidden
        shapes.append(target if stage == count else _nearest(sizes, family, target.hidden, widest, stage))
    return tuple(shapes)


def _nearest(sizes: dict[Axis, int], family: Family, lowest: int, highest: int, stage: int) -> ModelShape:
    """The shape of ``sizes`` that a stock model can have; only the hidden size gives way."""
    wanted = sizes[Axis.HIDDEN]
    hidden = range(lowest, highest + 1) if lowest < family.shape.hidden else (wanted,)
    refused: ShapeError | None = None
    for size in sorted(hidden, key=lambda size: (abs(size - wanted), -size)):
        shape = ModelShape(
            layers=sizes[Axis.LAYERS],
            hidden=size,
            kv_heads=sizes[Axis.KV_HEADS],
            query_heads=sizes[Axis.KV_HEADS] * sizes[Axis.QUERY_HEADS],
            intermediate=sizes[Axis.INTERMEDIATE],
        )
        try:
            family.check_shape(shape)
        except ShapeError as error:
            refused = refused or error
            continue
        return shape
    assert refused is not None
    raise ShapeError(
        f"{stage} of the stages has no shape that a stock {family.model_type} model can have: {refused} Use another "
        f"number of stages, or 0.",
        key="model.pruning.fall.stages",
    )
