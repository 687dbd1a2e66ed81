"""The integers that fix a LLaMA-family architecture, and the units that can be removed from it."""

from dataclasses import asdict, dataclass, field
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
class TargetShape:
    """What a user says of a smaller shape: the axes that change; the others stay as they are in the source."""

    layers: int | None = None
    """Transformer blocks; null keeps those of the source."""
    hidden: int | None = None
    """Width of the residual stream; null keeps that of the source."""
    query_heads: int | None = None
    """Attention heads of one block; null keeps as many per KV head as the source has."""
    kv_heads: int | None = None
    """Key/value heads of one block; null keeps those of the source, and one per query head without GQA."""
    intermediate: int | None = None
    """Feed-forward units of one block; null keeps those of the source."""

    def __post_init__(self) -> None:
        given = {name: size for name, size in asdict(self).items() if size is not None}
        if not given:
            raise ShapeError(
                f"{{}} names no axis, and there would be nothing to prune. Give at least one of "
                f"{', '.join(asdict(self))}.",
                key="target",
            )
        for name, size in given.items():
            _check_size(name, size, key=f"target.{name}")
        if self.query_heads is not None and self.kv_heads is not None:
            _check_heads(self.query_heads, self.kv_heads, key="target.query_heads")

    def completed(self, source: "ModelShape") -> "ModelShape":
        """The whole shape that is meant of ``source``.

        Heads are removed with what they belong to. A KV head takes its query heads with it: without ``query_heads``,
        as many per KV head are kept as the source has. A query head leaves the KV head to the others of its group:
        without ``kv_heads``, those of the source are kept, except where every query head has one of its own (no GQA),
        which goes with it.

        Raises:
            ShapeError: the query heads cannot be split over the KV heads.
        """
        sizes = {name: size for name, size in asdict(self).items() if size is not None}
        if "kv_heads" in sizes and "query_heads" not in sizes:
            sizes["query_heads"] = sizes["kv_heads"] * source.queries_per_group
        if "query_heads" in sizes and "kv_heads" not in sizes and source.queries_per_group == 1:
            sizes["kv_heads"] = sizes["query_heads"]
        try:
            return ModelShape(**{**source.to_dict(), **sizes})
        except ShapeError as error:
            # Heads that are both given were looked at: these are the source's KV heads.
            raise ShapeError(
                f"{error.args[0]} Or give target.kv_heads, too: those of the source are kept.",
                key=f"target.{error.key}",
            ) from error

    def to_dict(self) -> dict[str, int]:
        """The sizes that are given, by name."""
        return {name: size for name, size in asdict(self).items() if size is not None}


def _check_size(name: str, size: object, *, key: str | None = None) -> None:
    if not isinstance(size, int) or isinstance(size, bool):
        raise ShapeError(
            f"{size!r} is no size: it is a whole number of units. Use 1 or more.", key=key or name
        )
    if size < 1:
        raise ShapeError(
            f"{size} is no size: every axis keeps at least 1 unit. Use 1 or more.", key=key or name
        )


def _check_heads(query_heads: int, kv_heads: int, *, key: str) -> None:
    if query_heads % kv_heads:
        per_group = max(1, query_heads // kv_heads)
        raise ShapeError(
            f"{query_heads} cannot be split over kv_heads={kv_heads}: "
            f"every KV head must serve the same number of query heads. "
            f"Use query_heads={per_group * kv_heads} or {(per_group + 1) * kv_heads}.",
            key=key,
        )


@dataclass(frozen=True, kw_only=True)
class ModelShape(TargetShape):
    """The size of a model on every axis; the size of one head never changes. As a target, it leaves nothing open."""

    # ``field()``: there are no defaults, which those of a target would otherwise be.
    layers: int = field()
    """Transformer blocks."""
    hidden: int = field()
    """Width of the residual stream."""
    query_heads: int = field()
    """Attention heads of one block."""
    kv_heads: int = field()
    """Key/value heads of one block; equal to ``query_heads`` without GQA."""
    intermediate: int = field()
    """Feed-forward units of one block."""

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            _check_size(name, size)
        _check_heads(self.query_heads, self.kv_heads, key="query_heads")

    def completed(self, source: "ModelShape") -> "ModelShape":
        """Itself: it names every axis."""
        return self

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
                f"{target.query_heads} over target.kv_heads={target.kv_heads} is "
                f"{target.queries_per_group} per KV head, and the source has {most}: "
                f"pruning only removes units. Use query_heads={most * target.kv_heads} or less.",
                key="target.query_heads",
            )
        raise ShapeError(
            f"{target.units(axis)} is larger than the source's {most}: "
            f"pruning only removes units. Use {axis.value}={most} or less.",
            key=f"target.{axis.value}",
        )
    return tuple(axis for axis in Axis if target.units(axis) < source.units(axis))
