"""Figures that others have published, to stand beside measured ones; each has its source."""

from dataclasses import dataclass, field
from pathlib import Path

from shear_lit.disk.reading import read_yaml
from shear_lit.disk.records import record_of

_FILE = Path(__file__).parent / "shipped" / "published.yaml"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One model's figures, in percent."""

    model: str
    """What it is called there."""
    size: str = ""
    """Its parameters, as published."""
    average: float | None = None
    """The suite's one number, where it is published."""
    tasks: dict[str, float] = field(default_factory=dict)
    """By task, where they are published."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """What is published of a suite."""

    source: str
    """Where."""
    rows: tuple[PublishedRow, ...]
    """By model."""


def published_table(suite: str) -> PublishedTable | None:
    """What is published of a suite; none where nothing is."""
    tables = record_of(dict[str, PublishedTable], read_yaml(_FILE))
    return tables.get(suite)
