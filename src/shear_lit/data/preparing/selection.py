"""What the second stage leaves for the others: where documents go, and the tasks that write the chunks."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import Bounds
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.packing import ChunkTask
from shear_lit.data.preparing.plan import PartNumber
from shear_lit.disk.records import parse_values, read_values, record_of

_MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class SplitSelection:
    """What goes into one split of a domain in this run."""

    documents: int
    """Documents."""
    tokens: int
    """Their tokens."""
    duplicates: int
    """Documents that would be in it, had their text not come before."""
    rest: ChunkTask
    """What fills no sequence."""


@dataclass(frozen=True, kw_only=True)
class DomainSelection:
    """Where the documents of one domain go."""

    bounds: Bounds
    """The places of each split."""
    dropped: int
    """Documents whose text came before."""
    unused: int
    """Documents that no split wants."""
    splits: dict[str, SplitSelection]
    """Its splits, in order."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The selection of a run, as it is written."""

    plan: str
    """The hash of the run's plan."""
    run: int
    """Number of the run, of those that added to the data."""
    domains: dict[str, DomainSelection]
    """By domain."""


def write_selected(job: Job, selected: Selected, tasks: Iterable[ChunkTask]) -> None:
    """Write a selection, which is there when both of its files are."""
    write_part(job.tasks, (f"{json.dumps(asdict(task))}\n".encode() for task in tasks))
    write_part(job.selection, (json.dumps(asdict(selected)).encode(),))


def selected_before(job: Job) -> Selected | None:
    """The selection that was written, if there is one."""
    try:
        return record_of(Selected, read_values(job.selection, limit=_MOST_BYTES))
    except (OSError, ValueError):
        return None


def check_selected(job: Job, stage: str, plan: str) -> Selected:
    """The selection of the run with this plan.

    Raises:
        DataError: it has not been made.
    """
    selected = selected_before(job)
    if selected is None or selected.plan != plan:
        raise DataError(
            f"{stage!r}: documents have not been selected with these settings and inputs. Run `--stage select` first.",
            key="stage",
        )
    return selected


def tasks_of(job: Job, part: PartNumber) -> Iterator[ChunkTask]:
    """Every ``part.of``-th chunk that is to be written."""
    with job.tasks.open("rb") as lines:
        for index, line in enumerate(lines):
            if index % part.of == part.number - 1:
                yield record_of(ChunkTask, parse_values(line))
