"""What a pipeline of datatrove has handed over: the inputs that each of its tasks gave, and their sections.

Each task writes one list in the end. What is prepared depends on no task's number: inputs come in the order of their
names, and the documents of an input as the one task gave them that had it.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.ledger import Input, new_sources
from shear_lit.data.preparing.sections import Section
from shear_lit.data.text.kind import PIPELINE
from shear_lit.data.text.sources import Source
from shear_lit.disk.records import read_values, record_of

_MOST_BYTES = 1 << 30  # of a list
_NAMED = 5  # tasks that are missing


@dataclass(frozen=True, kw_only=True)
class Given:
    """An input whose documents a task gave."""

    name: str
    """Its name."""
    bytes: int
    """Its text in UTF-8."""
    content: str
    """Sum of the hashes of its documents; see ``encoding.joined``."""
    sections: tuple[str, ...]
    """The files of its sections, in order."""


@dataclass(frozen=True, kw_only=True)
class TaskList:
    """What one task gave."""

    inputs: tuple[Given, ...]
    """Its inputs."""


def write_list(job: Job, domain: str, task: int, tasks: int, inputs: Sequence[Given]) -> None:
    """Write what task number ``task`` of ``tasks``, from 1, gave of a domain."""
    content = asdict(TaskList(inputs=tuple(inputs)))
    path = job.sections / f"{domain}-{task}-of-{tasks}-{_key(job)}.json"
    write_part(path, (json.dumps(content).encode(),))


def pipeline_sections(job: Job, domain: str, known: Sequence[Input]) -> list[Section]:
    """The sections that a pipeline gave of a domain, in order, without inputs that the data holds already.

    Raises:
        DataError: not all tasks have ended, two gave documents of one input, or an input has changed since it was
            prepared.
    """
    found: dict[str, tuple[int, Given]] = {}
    for task, path in _lists(job, domain).items():
        for given in record_of(TaskList, read_values(path, limit=_MOST_BYTES)).inputs:
            if given.name in found:
                raise DataError(
                    f"'select': tasks {found[given.name][0]} and {task} of the pipeline of domain {domain!r} both gave "
                    f"documents of {given.name!r}, which leaves their order open. Have one task read each input, and "
                    "run the pipeline again.",
                    key="stage",
                )
            found[given.name] = task, given
    inputs = [found[name][1] for name in sorted(found)]
    sources = [Source(domain=domain, name=one.name, kind=PIPELINE, bytes=one.bytes) for one in inputs]
    new = set(new_sources(sources, [one.content for one in inputs], known))
    return [
        Section(sources=(source,), file=file)
        for source, one in zip(sources, inputs, strict=True)
        if source in new
        for file in one.sections
    ]


def _lists(job: Job, domain: str) -> dict[int, Path]:
    """The lists of all tasks of the one run of a pipeline."""
    name = re.compile(rf"{re.escape(domain)}-(\d+)-of-(\d+)-{_key(job)}\.json")
    found: dict[int, dict[int, Path]] = {}
    for path in job.sections.iterdir() if job.sections.is_dir() else ():
        if matched := name.fullmatch(path.name):
            task, tasks = map(int, matched.groups())
            found.setdefault(tasks, {})[task] = path
    if len(found) > 1:
        raise DataError(
            f"'select': a pipeline of {' and one of '.join(map(str, sorted(found)))} tasks gave documents of domain "
            f"{domain!r}. Remove the lists of the wrong one, {job.sections}/{domain}-*-of-*.json.",
            key="stage",
        )
    tasks, lists = next(iter(found.items()), (0, {}))
    missing = [str(task) for task in range(1, tasks + 1) if task not in lists]
    if missing or not tasks:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        what = f"tasks {', '.join(missing[:_NAMED])}{more} of {tasks} have" if tasks else "no task has"
        what += " ended" if not tasks else " not ended"
        raise DataError(
            f"'select': documents of domain {domain!r} come from a pipeline, of which {what}. Run "
            "it with shear_lit.data.preparing.datatrove.HandOver as its last step, and the same settings.",
            key="stage",
        )
    return dict(sorted(lists.items()))


def _key(job: Job) -> str:
    return hashlib.sha256(job.reading_key.encode()).hexdigest()[:12]
