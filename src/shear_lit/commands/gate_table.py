"""What cuts keep, as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shear_lit.disk.names import expanded, is_elsewhere
from shear_lit.pruning.artefact import gates_in, read_kept
from shear_lit.pruning.carve import KeptUnits, kept_units
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.scores import Scores, ScoresError, read_scores
from shear_lit.theory.shape import Axis, ModelShape, TargetShape, shrinking_axes


@dataclass(frozen=True, kw_only=True)
class GateTable:
    """What one cut keeps, and how much of it another one keeps as well."""

    directory: str
    """Where the gates were found."""
    source: str
    """The model whose units they are of."""
    criterion: str
    """What ordered them."""
    shape: ModelShape
    """The shape that is kept."""
    layers: tuple[int, ...]
    """The kept blocks of the source."""
    heads: Mapping[int, tuple[int, ...]]
    """The kept query heads of each of them, numbered within the block."""
    other: str | None
    """Where the second gates were found."""
    agreement: Mapping[str, tuple[float, float]]
    """Of both cuts, by axis: the share of kept units in common, and what two random cuts would share."""

    def __str__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.shape.to_dict().items())
        lines = [
            f"{self.directory}: units of {self.source}, {self.criterion}",
            f"shape: {sizes}",
            f"layers kept: {_ranges(self.layers)}",
            "layer  query heads kept",
            *(f"{layer:>5}  {_ranges(heads)}" for layer, heads in self.heads.items()),
        ]
        if self.other is not None:
            lines += [
                f"agreement with {self.other}",
                f"{'axis':<14}{'kept by both':>12}{'by chance':>12}",
                *(
                    f"{axis:<14}{both:>12.1%}{chance:>12.1%}"
                    for axis, (both, chance) in self.agreement.items()
                ),
            ]
        return "\n".join(lines)


def table_of(directory: str, other: str | None, asked: TargetShape | None) -> GateTable:
    """The table of one cut or two; ``gates`` says what the arguments are."""
    scores, kept = _cut(directory, asked)
    shape = kept.shape
    second = None if other is None else _second_cut(other, asked)
    if second is not None and second[0].origin.source_fingerprint != scores.origin.source_fingerprint:
        raise ScoresError(
            f"other={other!r} is of {second[0].origin.source!r}, and {directory!r} of {scores.origin.source!r}: units "
            f"of two models cannot agree. Compare cuts of one source."
        )
    layers = tuple(kept.layers.tolist())
    return GateTable(
        directory=directory,
        source=scores.origin.source,
        criterion=scores.origin.criterion,
        shape=shape,
        layers=layers,
        heads={layer: tuple(kept.query_heads[layer].tolist()) for layer in layers},
        other=other,
        agreement={} if second is None else _agreement(kept, second[1], scores.origin.source_shape),
    )


def _second_cut(place: str, asked: TargetShape | None) -> tuple[Scores, KeptUnits]:
    try:
        return _cut(place, asked)
    except ScoresError as error:
        error.key = "other" if error.key == "gates" else error.key
        raise


def _cut(place: str, asked: TargetShape | None) -> tuple[Scores, KeptUnits]:
    """The gates at ``place``, and what they keep: as they were cut, or at the shape that is asked for."""
    path = expanded(place)
    file = str(gates_in(path)) if path.is_dir() else str(path)
    if path.is_dir() and is_elsewhere(Path(file), path):
        raise ScoresError(
            f"{file!r} is a link that leads out of the directory. Copy the file there, or name it itself.",
            key="gates",
        )
    scores = read_scores(file)
    source = scores.origin.source_shape
    if asked is not None:
        shape = asked.completed(source)
        scores.check_axes(shrinking_axes(source, shape))
        return scores, kept_units(ranked_gates(scores.importance, source, shape), source)
    kept = read_kept(file)
    if kept is None:
        raise ScoresError(
            f"{place!r} holds an order of units, and no cut. Say at which shape to look at it, with --target.layers "
            f"or other sizes, or with --target_preset.",
            key="gates",
        )
    return scores, kept


def _agreement(first: KeptUnits, second: KeptUnits, source: ModelShape) -> dict[str, tuple[float, float]]:
    """By axis, the share of the first cut's units that the second keeps, and that a random one would.

    Of units inside blocks, those of the blocks that both keep.
    """
    blocks = sorted(set(first.layers.tolist()) & set(second.layers.tolist()))
    found = {}
    for axis in Axis:
        mine, theirs = getattr(first, axis.value), getattr(second, axis.value)
        rows = [(mine, theirs)] if mine.ndim == 1 else [(mine[block], theirs[block]) for block in blocks]
        if not rows:
            continue
        units = source.query_heads if axis is Axis.QUERY_HEADS else source.units(axis)
        shares = [len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in rows]
        found[axis.value] = (sum(shares) / len(shares), theirs.shape[-1] / units)
    return found


def _ranges(indices: Sequence[int]) -> str:
    """``0-3 5 7-8`` for 0, 1, 2, 3, 5, 7, 8."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return " ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
