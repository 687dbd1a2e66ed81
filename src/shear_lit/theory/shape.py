"""The integers that fix a LLaMA-family architecture, and the units that can be removed from it."""

from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from shear_lit.mistakes import Mistake


class ShapeError(Mistake):
    """A model shape that cannot exist, or that cannot be cut from its source."""


class Axis(StrEnum):
    """A dimension of the architecture along which units are removed (arXiv:2310.06694, section 2.1)."""

    LAYERS = "layers"
    HIDDEN = "hidden"
    KV_HEADS = "kv_heads"
    QUERY_HEADS = "query_heads"
    INTERMEDIATE = "intermediate"


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The size of a model on every axis; the size of one head never changes."""

    layers: int
    """Transformer blocks."""
    hidden: int
    """Width of the residual stream."""
    query_heads: int
    """Attention heads of one block."""
    kv_heads: int
    """Key/value heads of one block; equal to ``query_heads`` without GQA."""
    intermediate: int
    """Feed-forward units of one block."""

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if size < 1:
                raise ShapeError(
                    f"{field.name}={size} is no size: every axis keeps at least 1 unit. Use 1 or more."
                )
        if self.query_heads % self.kv_heads:
            per_group = max(1, self.query_heads // self.kv_heads)
            raise ShapeError(
                f"query_heads={self.query_heads} cannot be split over kv_heads={self.kv_heads}: "
                f"every KV head must serve the same number of query heads. "
                f"Use query_heads={per_group * self.kv_heads} or {(per_group + 1) * self.kv_heads}."
            )

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one KV head."""
        return self.query_heads // self.kv_heads

    def units(self, axis: Axis) -> int:
        """Units in one row of ``axis``: of the whole model, of one block, or of one KV group (query heads)."""
        if axis is Axis.QUERY_HEADS:
            return self.queries_per_group
        return int(getattr(self, axis.value))

    def gate_shape(self, axis: Axis) -> tuple[int, ...]:
        """One gate per unit; the last dimension is a row, within which the units compete."""
        rows: dict[Axis, tuple[int, ...]] = {
            Axis.LAYERS: (),
            Axis.HIDDEN: (),
            Axis.KV_HEADS: (self.layers,),
            Axis.QUERY_HEADS: (self.layers, self.kv_heads),
            Axis.INTERMEDIATE: (self.layers,),
        }
        return (*rows[axis], self.units(axis))

    def to_dict(self) -> dict[str, int]:
        """The sizes by name, for files and logs."""
        return asdict(self)


def shrinking_axes(source: ModelShape, target: ModelShape) -> tuple[Axis, ...]:
    """The axes on which ``target`` is smaller than ``source``.

    Raises:
        ShapeError: ``target`` is larger than ``source`` on an axis.
    """
    for axis in Axis:
        most = source.units(axis)
        if target.units(axis) <= most:
            continue
        if axis is Axis.QUERY_HEADS:
            raise ShapeError(
                f"target.query_heads={target.query_heads} over target.kv_heads={target.kv_heads} is "
                f"{target.queries_per_group} per KV head, and the source has {most}: "
                f"pruning only removes units. Use query_heads={most * target.kv_heads} or less."
            )
        raise ShapeError(
            f"target.{axis.value}={target.units(axis)} is larger than the source's {most}: "
            f"pruning only removes units. Use {axis.value}={most} or less."
        )
    return tuple(axis for axis in Axis if target.units(axis) < source.units(axis))
