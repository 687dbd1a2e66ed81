"""Losses of several sizes, from a file, fitted by domain and written as the references that ``fit`` reads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shear_lit.data.order.references import References, write_references
from shear_lit.disk.names import expanded
from shear_lit.disk.reading import read_yaml
from shear_lit.disk.records import record_of
from shear_lit.evaluation.scaling import FitError, Law, fit_law
from shear_lit.evaluation.tables import markdown_table


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model of one size."""

    parameters: int
    """Its parameters."""
    losses: dict[str, float]
    """Nats per token, by domain."""
    errors: dict[str, float] = field(default_factory=dict)
    """Their standard errors; empty if they are not known."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """What a file of points says."""

    points: tuple[Point, ...]
    """The models."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer of the text that all were measured on; empty if it is not known."""


@dataclass(frozen=True, kw_only=True)
class FittedReferences:
    """References of a size that was not measured."""

    parameters: int
    """The size."""
    laws: Mapping[str, Law]
    """By domain."""
    output: str | None
    """The file that they were written to."""

    def __str__(self) -> str:
        rows = [
            [
                *(name, f"{law.loss:.4f}", _number(law.stderr)),
                f"{_number(law.interval[0])} to {_number(law.interval[1])}",
                f"{law.floor:.4g} + {law.scale:.4g} N^-{law.power:.4g}",
            ]
            for name, law in self.laws.items()
        ]
        table = markdown_table(["domain", "nats per token", "standard error", "95 % interval", "law"], rows)
        words = [f"WARNING: {name}: {word}." for name, law in self.laws.items() for word in law.words]
        written = [f"written to {self.output}"] if self.output else []
        return "\n".join([f"references for {self.parameters:,} parameters", "", table, "", *words, *written])


def fit_references(points: str, parameters: int, output: Path | None) -> FittedReferences:
    """Fit every domain of a file of points (``reference_fit`` says what the arguments are).

    Raises:
        FitError: the file is none of points, or no law goes through them.
    """
    found = _read_points(points)
    first = found.points[0]
    sizes = np.array([point.parameters for point in found.points], dtype=np.float64)
    known = bool(first.errors)
    laws = {}
    for name in first.losses:
        losses = np.array([point.losses[name] for point in found.points], dtype=np.float64)
        errors = np.array([point.errors[name] for point in found.points]) if known else None
        try:
            laws[name] = fit_law(sizes, losses, errors, float(parameters))
        except FitError as error:
            raise FitError(f"{error} (in {points!r}, domain {name})") from error
    if output is not None:
        references = References(
            losses={name: law.loss for name, law in laws.items()},
            source=f"fit of {len(sizes)} sizes in {points}, continued to {parameters:,} parameters",
            tokenizer=found.tokenizer,
            errors={name: law.stderr for name, law in laws.items()} if _all_known(laws) else {},
        )
        write_references(output, references)
    return FittedReferences(parameters=parameters, laws=laws, output=None if output is None else str(output))


def _all_known(laws: Mapping[str, Law]) -> bool:
    return all(math.isfinite(law.stderr) for law in laws.values())


def _read_points(points: str) -> Points:
    form = "`points: [{parameters: N, losses: {domain: nats}}, ...]` is expected. Correct it."
    try:
        found = record_of(Points, read_yaml(expanded(points), limit=1 << 20))
    except OSError as error:
        raise FitError(f"points={points!r} cannot be read: {error.strerror}. Name a YAML file.") from error
    except ValueError as error:
        raise FitError(f"points={points!r}: {error}: {form}") from error
    if not found.points or not found.points[0].losses:
        raise FitError(f"points={points!r} has no losses: {form}")
    names, with_errors = found.points[0].losses.keys(), bool(found.points[0].errors)
    for number, point in enumerate(found.points, start=1):
        if point.losses.keys() != names or point.errors.keys() != (names if with_errors else set()):
            raise FitError(
                f"points={points!r}: point {number} has other domains than the first, or lacks their errors. "
                f"Give every point the same domains."
            )
        if point.parameters < 1 or any(error <= 0 for error in point.errors.values()):
            raise FitError(f"points={points!r}: point {number}: sizes and errors are above 0. Correct it.")
    return found


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4f}"
