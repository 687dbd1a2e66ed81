"""What the manifest says of text of evaluation tasks that was cut out of documents."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_EXAMPLES = 3
"""Examples that are kept of each domain."""


@dataclass(frozen=True, kw_only=True)
class ContaminatedText:
    """One place where text of a task was found."""

    place: str
    """The file and the line."""
    task: str
    """The task."""
    text: str
    """The words, as they stand there."""


@dataclass(frozen=True, kw_only=True)
class Contaminated:
    """What was found in documents of one domain, duplicates included."""

    documents: int
    """Documents with text of a task."""
    dropped: int
    """Those of them of which nothing is left."""
    pieces: int
    """Documents that the others became."""
    characters: int
    """Characters that were taken away."""
    tasks: dict[str, int]
    """Documents with text of each task; one may have text of several."""
    examples: tuple[ContaminatedText, ...]
    """The first of them."""


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """An evaluation task whose text was looked for."""

    name: str
    """The file of its questions, or its suite and its name there."""
    examples: int
    """Its questions."""
    too_short: int
    """Those with fewer words than ``words``, which nothing can be told to be."""
    words: int
    """Words of a gram."""
    grams: int
    """Its grams that no task before it has."""


@dataclass(frozen=True, kw_only=True)
class DecontaminationRecord:
    """How documents were held against evaluation tasks, and what was found."""

    fingerprint: str
    """SHA-256 of the grams of all tasks."""
    looked_for: str
    """SHA-256 of those that are not ignored, and of which task has each."""
    most_documents: int
    """A gram in more documents is ignored; 0: none is."""
    ignored: int
    """Grams that are ignored."""
    tasks: tuple[TaskRecord, ...]
    """The tasks."""
    domains: dict[str, Contaminated] = field(default_factory=dict)
    """What was found, by domain."""


def together(found: Iterable[Contaminated]) -> Contaminated:
    """The sum of several, with the first examples."""
    parts = list(found)
    tasks: Counter[str] = Counter()
    for part in parts:
        tasks.update(part.tasks)
    return Contaminated(
        documents=sum(part.documents for part in parts),
        dropped=sum(part.dropped for part in parts),
        pieces=sum(part.pieces for part in parts),
        characters=sum(part.characters for part in parts),
        tasks=dict(sorted(tasks.items())),
        examples=tuple(example for part in parts for example in part.examples)[:MOST_EXAMPLES],
    )
