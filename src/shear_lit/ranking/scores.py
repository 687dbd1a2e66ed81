"""Scores and gates on disk: one safetensors file that says what it is of, readable without this package.

Its header holds, under ``shear_lit``, a JSON of ``source``, ``source_fingerprint``, ``criterion``, ``data_fingerprint``
and ``source_shape``; its tensors are ``score.<axis>`` (of a ranking) or ``log_alpha.<axis>`` (of learned gates).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from shear_lit.disk.names import expanded
from shear_lit.disk.reading import parse_json
from shear_lit.mistakes import Mistake
from shear_lit.ranking.importance import Importance
from shear_lit.ranking.sealed import read_sealed_file, sealed_file
from shear_lit.theory.shape import Axis, ModelShape

HEADER = "shear_lit"
"""The entry of the file's header."""
LEARNED = "learned"
"""The criterion of gates that were trained."""
FORMAT = 1
_SCORE, _LOG_ALPHA = "score.", "log_alpha."


class ScoresError(Mistake):
    """Scores that cannot be read, or that are of another model."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where scores come from."""

    source: str
    """Directory of the model whose units they order, or ``organisation/model@commit``."""
    source_fingerprint: str
    """``source_fingerprint`` of it."""
    source_shape: ModelShape
    """Its shape."""
    criterion: str
    """What the order means."""
    data_fingerprint: str | None = None
    """Fingerprint of the prepared data that it was measured on, if it was."""
    sequences: int | None = None
    """Sequences that it was measured on."""
    tokens: int | None = None
    """Their tokens."""

    def to_entry(self) -> dict[str, Any]:
        """The facts by name, for files; of those that earlier versions do not know, the ones that say something."""
        entries = asdict(self)
        later = {name: entries.pop(name) for name in ("sequences", "tokens")}
        return {
            "format": FORMAT,
            **entries,
            **{name: value for name, value in later.items() if value is not None},
        }


@dataclass(frozen=True, kw_only=True)
class Scores:
    """An order of a model's units, by axis."""

    path: str
    """The file that they were read from."""
    origin: Origin
    """Where they come from."""
    importance: Importance
    """Larger is more important; axes that are absent were not ranked."""

    def check_source(self, source: ModelShape, *, fingerprint: str) -> None:
        """Refuse scores that are not of the model of shape ``source`` with ``fingerprint``.

        Raises:
            ScoresError: they are of another.
        """
        if fingerprint != self.origin.source_fingerprint or source != self.origin.source_shape:
            raise ScoresError(
                f"{self.path!r} is of {self.origin.source!r} (fingerprint "
                f"{self.origin.source_fingerprint[:12]}), and the source has {fingerprint[:12]}: its units are others. "
                f"Name that model as the source, or rank this one with `shear-lit rank`.",
                key="gates",
            )

    def check_axes(self, axes: tuple[Axis, ...]) -> None:
        """Refuse scores that do not order the units of all ``axes``.

        Raises:
            ScoresError: they lack an axis.
        """
        missing = [axis.value for axis in axes if axis not in self.importance]
        if missing:
            raise ScoresError(
                f"{self.path!r} (criterion {self.origin.criterion}) does not order {', '.join(missing)}, which the "
                f"target shrinks. Use a target that keeps all of them, or scores of another criterion.",
                key="gates",
            )


def scores_file(importance: Mapping[Axis, Tensor], origin: Origin) -> bytes:
    """The content of a file of scores."""
    return scores_and_more(score_tensors(importance), origin)


def score_tensors(importance: Mapping[Axis, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of scores, by their names in it."""
    return {f"{_SCORE}{axis.value}": values.float().contiguous() for axis, values in importance.items()}


def scores_and_more(tensors: Mapping[str, Tensor], origin: Origin) -> bytes:
    """The content of a file of scores that holds further tensors: they, where they come from, and a checksum."""
    return sealed_file(tensors, {"format": "pt", HEADER: json.dumps(origin.to_entry())})


def read_scores(path: str) -> Scores:
    """The scores in a file of `shear-lit rank`, of an export, or of a run's gates.

    Raises:
        ScoresError: there is none, or it is of another kind or damaged.
    """
    return read_scores_and_more(path)[0]


def read_scores_and_more(path: str) -> tuple[Scores, dict[str, Tensor]]:
    """The same, and all tensors of the file.

    Raises:
        ScoresError: as ``read_scores``.
    """
    file = expanded(path)
    if not file.is_file():
        raise ScoresError(
            f"{path!r} is no file: one that `shear-lit rank` wrote, gates.shear of an export, or "
            f"gates/step=NNNNNN.safetensors of a run is expected. Correct the path.",
            key="gates",
        )
    try:
        tensors, entries = read_sealed_file(file, {"format", HEADER})
        entry = parse_json(entries[HEADER])
        shape = ModelShape(**entry.pop("source_shape"))
        if entry.pop("format") != FORMAT:
            raise KeyError("format")
        origin = Origin(**entry, source_shape=shape)
        importance = _importance(tensors, shape)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScoresError(
            f"{path!r} cannot be used ({type(error).__name__}: {error}): it is damaged, or was not written by "
            f"this version of shear_lit. Write it again with `shear-lit rank` or `shear-lit export`.",
            key="gates",
        ) from error
    return Scores(path=path, origin=origin, importance=importance), tensors


def _importance(tensors: Mapping[str, Tensor], shape: ModelShape) -> Importance:
    found: Importance = {}
    for axis in Axis:
        for prefix in (_SCORE, _LOG_ALPHA):
            values = tensors.get(f"{prefix}{axis.value}")
            if values is None:
                continue
            if tuple(values.shape) != shape.gate_shape(axis) or not bool(values.isfinite().all()):
                raise ValueError(
                    f"{prefix}{axis.value} has the shape {tuple(values.shape)}, or is not finite"
                )
            found[axis] = values
    if not found:
        raise KeyError(f"{_SCORE}<axis>")
    return found
