"""Decontamination as a part of a run: its tasks, which of their grams many documents have, and what it found.

Counting is a stage of tasks like tokenising, and comes before it. Of each gram the eleven documents with the smallest
hashes are kept, so that the count does not depend on who counted what, and goes on when files are added.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.contamination import Contaminated, DecontaminationRecord, TaskRecord, together
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.preparing.decontamination_settings import DecontaminationSettings
from shear_lit.data.preparing.executors import Executor
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.reporting import StageProgress
from shear_lit.data.text.contamination.grams import Grams
from shear_lit.data.text.contamination.tasks import Task, tasks_of_files
from shear_lit.data.text.contamination.words import words_of
from shear_lit.data.text.documents import document_hash
from shear_lit.data.text.kind import PIPELINE
from shear_lit.data.text.pieces import WITHOUT_RECORDS, Piece, documents, pieces
from shear_lit.data.text.sources import Source
from shear_lit.data.tokens.spools import SpoolRecord
from shear_lit.disk.writing import write_file

COUNTED = "grams.bin"
"""The file of the ledger with grams and documents that have them: two UInt64 each."""

_MOST_PAIRS = 1 << 22  # that are held before they are thinned out
_log = logging.getLogger(__name__)
Pairs = NDArray[np.uint64]
"""UInt64[pairs, 2]: the hash of a gram, and that of a document which has it."""


def with_tasks(job: Job, sources: Sequence[Source], tasks: Sequence[Task]) -> tuple[Job, Grams | None]:
    """The job with its tasks, those of files and ``tasks``, and their grams; itself and nothing if it has none.

    Raises:
        DataError: a file of questions cannot be read, no question is long enough, those of suites are not given, an
            input is no text, or documents were to be counted that a pipeline gives.
    """
    settings = job.settings.decontaminate
    if not settings.asked:
        return job, None
    if settings.suites and not tasks:
        raise DataError(
            f"{settings.suites}: questions of suites are looked up by the command alone. Give those of "
            "shear_lit.evaluation.suites.questions.tasks_of_suite as tasks, or name files.",
            key="decontaminate.suites",
        )
    for source in sources:
        if source.kind in WITHOUT_RECORDS and source.kind != "text":
            raise DataError(
                f"{source.name!r} of domain {source.domain!r} holds tokens, in which no text of a question is found. "
                "Name text, or leave decontaminate out.",
                key="decontaminate",
            )
        if source.kind == PIPELINE:
            _check_uncounted(settings, "documents come from a pipeline, once")
    tasks = [*tasks_of_files(settings.files, settings.fields), *tasks]
    lengths = [task.gram_words(settings.least_words, settings.most_words) for task in tasks]
    grams = Grams.of_tasks(tasks, lengths)
    records = tuple(_record(n, task, lengths[n], grams) for n, task in enumerate(tasks))
    if not grams.count:
        raise DataError(
            f"{[task.name for task in tasks]}: no question has {settings.least_words} words, so that nothing can be "
            f"found. Name other fields than {settings.fields}, or other files.",
            key="decontaminate.fields",
        )
    for record in records:
        _log.info(
            "decontaminate: %s: %d questions (fields %s), %d of them with fewer than %d words; %d grams",
            *(
                record.name,
                record.examples,
                ", ".join(settings.fields),
                record.too_short,
                record.words,
                record.grams,
            ),
        )
    made = DecontaminationRecord(
        fingerprint=grams.fingerprint(),
        looked_for=grams.numbered(),
        most_documents=settings.most_documents,
        ignored=0,
        tasks=records,
    )
    return replace(job, decontamination=made), grams


def _record(number: int, task: Task, words: int, grams: Grams) -> TaskRecord:
    short = sum(len(words_of(example)) < words for example in task.examples)
    count = grams.count_of(number)
    return TaskRecord(name=task.name, examples=len(task.examples), too_short=short, words=words, grams=count)


def check_same_tasks(earlier: Manifest, made: DecontaminationRecord | None, output: str) -> None:
    """Refuse to add documents that are held against other tasks than those before.

    Raises:
        DataError: they are.
    """
    there = earlier.decontamination
    ours, theirs = (None if one is None else (one.fingerprint, one.most_documents) for one in (made, there))
    if ours != theirs:
        raise DataError(
            f"{_names(made)}: what is in output={output!r} was held against {_names(there)}, and files can only be "
            "added in the same way. Use the same questions and rules, or prepare into another directory.",
            key="decontaminate",
        )


def _names(record: DecontaminationRecord | None) -> str:
    if record is None:
        return "no evaluation tasks"
    names = ", ".join(task.name for task in record.tasks[:3]) + (" …" if len(record.tasks) > 3 else "")
    return f"{names} ({record.fingerprint[:12]}, most_documents={record.most_documents})"


def check_stage(settings: DecontaminationSettings, stage: str) -> None:
    """Refuse a stage by itself where documents are to be counted, which all of the others would wait for.

    Raises:
        DataError: they are.
    """
    _check_uncounted(settings, f"--stage {stage} reads at most a part of the text")


def _check_uncounted(settings: DecontaminationSettings, why: str) -> None:
    if settings.asked and settings.most_documents:
        raise DataError(
            f"{settings.most_documents}: in how many documents a text stands is counted over all of them before any is "
            f"tokenised, and {why}. Use decontaminate.most_documents=0, which ignores nothing, or prepare files "
            "without --stage.",
            key="decontaminate.most_documents",
        )


def without_common(
    job: Job, grams: Grams | None, sources: Sequence[Source], earlier: Path | None, executor: Executor
) -> Job:
    """The job that ignores grams which too many documents have, and whose tasks find the others in a file.

    Args:
        job: The run.
        grams: Those of all questions.
        sources: What to count in; inputs that the data holds already may be left out, or not.
        earlier: The ledger of the runs before.
        executor: Who counts.

    Raises:
        DataError: an input cannot be read.
    """
    made = job.decontamination
    if made is None or grams is None:
        return job
    ignored = np.empty(0, np.uint64)
    job.counted_grams.unlink(missing_ok=True)
    if made.most_documents:
        grams.save(job.all_grams)
        pairs = _counted(job, sources, earlier, executor)
        write_file(job.counted_grams, pairs.astype("<u8").tobytes())
        found, counts = np.unique(pairs[:, 0], return_counts=True)
        ignored = found[counts > made.most_documents]
    if len(ignored):
        _log.info(
            "decontaminate: %d grams are ignored, which more than %d documents have",
            len(ignored),
            made.most_documents,
        )
    used = grams.without(ignored)
    used.save(job.grams)
    return replace(job, decontamination=replace(made, looked_for=used.numbered(), ignored=len(ignored)))


def _counted(job: Job, sources: Sequence[Source], earlier: Path | None, executor: Executor) -> Pairs:
    most = job.settings.decontaminate.most_documents + 1
    waiting = [_pairs_of_ledger(earlier)]
    with StageProgress("Looking for questions", sources) as progress:
        for piece, found in executor.run(partial(collisions_of, job), pieces(sources, job)):
            waiting.append(found)
            if sum(map(len, waiting)) > _MOST_PAIRS:
                waiting = [_smallest(np.concatenate(waiting), most)]
            progress.add_piece(piece.bytes)
    return _smallest(np.concatenate(waiting), most)


def collisions_of(job: Job, piece: Piece) -> Pairs:
    """The grams of each document of a piece of work."""
    grams, found = _grams(str(job.all_grams)), list[tuple[int, int]]()
    for document in documents(piece, job):
        if hashes := {one.hash for one in grams.find(document.text)}:
            place = int.from_bytes(document_hash(document.text)[:8])
            found += [(one, place) for one in sorted(hashes)]
    return np.array(found, dtype=np.uint64).reshape(-1, 2)


def _smallest(pairs: Pairs, most: int) -> Pairs:
    """Of each gram the ``most`` documents with the smallest hashes, sorted."""
    if not len(pairs):
        return pairs
    pairs = np.unique(pairs, axis=0)
    begins = np.flatnonzero(np.append(True, pairs[1:, 0] != pairs[:-1, 0]))
    rank = np.arange(len(pairs)) - np.repeat(begins, np.diff(np.append(begins, len(pairs))))
    return pairs[rank < most]


def _pairs_of_ledger(folder: Path | None) -> Pairs:
    if folder is None or not (folder / COUNTED).is_file():
        return np.empty((0, 2), np.uint64)
    return np.fromfile(folder / COUNTED, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def record_of_run(
    job: Job, domains: Mapping[str, Sequence[tuple[Piece, SpoolRecord]]], before: Manifest | None
) -> DecontaminationRecord | None:
    """What the manifest says: what this run found in each domain, and those before it."""
    made = job.decontamination
    if made is None:
        return None
    earlier = before.decontamination if before is not None else None
    found = dict(earlier.domains if earlier is not None else {})
    for name, pieces_of_domain in domains.items():
        own = list(_named(made, pieces_of_domain))
        found[name] = together([*([found[name]] if name in found else []), *own])
    return replace(made, domains=found)


def _named(made: DecontaminationRecord, done: Iterable[tuple[Piece, SpoolRecord]]) -> Iterator[Contaminated]:
    """What was found in each piece of work, with names in place of numbers."""
    before, of_input = 0, ""
    for piece, record in done:
        before = before if piece.name == of_input else 0
        if (found := record.contaminated) is not None:
            examples = tuple(
                replace(e, place=piece.place(int(e.place), before), task=made.tasks[int(e.task)].name)
                for e in found.examples
            )
            tasks = {made.tasks[int(number)].name: count for number, count in found.tasks.items()}
            yield replace(found, tasks=tasks, examples=examples)
        before, of_input = before + record.numbers, piece.name


def _grams(path: str) -> Grams:
    return _grams_of(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _grams_of(path: str, written: int) -> Grams:
    return Grams.load(Path(path))
