"""Packing: documents become sequences, and sequences chunks; every chunk is a task of its own.

How many tokens each split gets of each spool is known before anything is packed, so that prefix sums say of which
tokens a chunk is made. A chunk that is written is found by a run that goes on after another, and is not written again.

``concatenate`` cuts the stream of documents, one after the other, into sequences; what fills none at the end is kept
for a later run. ``best_fit`` takes the documents that begin in as many tokens as a chunk has, and gives each a
sequence (see ``fitting``): no document is cut that fits into one, and what stays empty is padding. The parts of
conversations are packed as documents are, and what of them is to be predicted is written beside them.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.prepared.chunks import SequenceDocuments, Tokens, write_chunk, write_part
from shear_lit.data.prepared.manifest import ChunkRecord
from shear_lit.data.prepared.reading import size_problem
from shear_lit.data.preparing.fitting import bounds_of, fitted, laid_out, parts_of
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.selecting import Chosen, marks_of
from shear_lit.data.tokens.spools import ANSWERS, LEARNED, Flags, Spool
from shear_lit.disk.records import read_values, record_of

DONE = "chunks"
"""Folder, in the one that a run works in, of what says which chunks are written."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """What filled no sequence."""

    tokens: list[int]
    """The tokens."""
    starts: list[int]
    """Where documents begin in them."""


EMPTY = Tail(tokens=[], starts=[])


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The documents of one spool that belong into a split."""

    spool: str
    """Name of the spool."""
    marks: int
    """Where the bytes of its documents begin in the file of marks."""
    split: int
    """The byte of those that belong into the split."""
    first: int
    """Where the first of their tokens lies in the stream of the split."""


@dataclass(frozen=True, kw_only=True)
class ChunkTask:
    """One chunk to be written."""

    folder: str
    """``wiki/prune``."""
    number: int
    """Which chunk of the folder it is."""
    begin: int
    """The first token of the stream that is its own."""
    end: int
    """The first that is not."""
    parts: tuple[Part, ...]
    """The spools that these lie in."""
    tail: Tail
    """What comes first in the stream, of an earlier run."""
    marks: str
    """SHA-256 of the file of marks."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A chunk that is written."""

    chunk: ChunkRecord | None
    """It; none where no document begins in its tokens."""
    padding: int
    """Tokens of it that only fill sequences up."""
    parts: int = 0
    """Parts of conversations in it."""
    turns: int = 0
    """Answers of the assistant in it."""
    learned: int = 0
    """Tokens of these."""


@dataclass
class Stream:
    """All documents of one split of one domain, one after the other."""

    folder: str
    """``wiki/prune``."""
    parts: list[Part]
    """What it gets of each spool."""
    tail: Tail
    """What comes before them, of an earlier run."""
    tokens: int
    """Tokens of all of it."""
    marks: str
    """SHA-256 of the file of marks."""

    def __post_init__(self) -> None:
        self._firsts = [part.first for part in self.parts]

    def tasks(self, job: Job, first: int) -> Iterator[ChunkTask]:
        """Its chunks; ``first`` are there already."""
        length = job.settings.sequence_length
        full, last = job.per_chunk * length, self.tokens
        if job.settings.packing == "concatenate":
            last -= last % length
        for number, begin in enumerate(range(0, last, full), start=first):
            yield self._task(number, begin, min(begin + full, last))

    def rest(self, job: Job) -> ChunkTask:
        """What fills no sequence, where documents are cut, as a task for ``rest_of``."""
        left = self.tokens % job.settings.sequence_length if job.settings.packing == "concatenate" else 0
        return self._task(0, self.tokens - left, self.tokens)

    def _task(self, number: int, begin: int, end: int) -> ChunkTask:
        firsts = self._firsts
        inside = self.parts[max(0, bisect_left(firsts, begin) - 1) : bisect_left(firsts, end)]
        tail = EMPTY if begin else self.tail
        return ChunkTask(
            folder=self.folder,
            number=number,
            begin=begin,
            end=end,
            parts=tuple(inside),
            tail=tail,
            marks=self.marks,
        )


def stream_of(folder: str, split: int, chosen: Sequence[Chosen], marks: str, tail: Tail) -> Stream:
    """The documents of split number ``split``, of which ``chosen`` says how many tokens lie in each spool.

    ``marks`` is the SHA-256 of the file of marks once all documents are divided.
    """
    firsts = list(accumulate((one.tokens for one in chosen), initial=len(tail.tokens)))
    parts = [
        Part(spool=one.spool, marks=one.marks, split=split, first=first)
        for one, first in zip(chosen, firsts[:-1], strict=True)
        if one.tokens
    ]
    return Stream(folder=folder, parts=parts, tail=tail, tokens=firsts[-1], marks=marks)


def pack(job: Job, task: ChunkTask) -> Packed:
    """Write a chunk, unless that has been done.

    Raises:
        OSError: it cannot be written.
    """
    if (packed := packed_before(job, task)) is None:
        packed = _write(job, task, job.packed / task.folder)
        write_part(_done(job, task), (json.dumps(asdict(packed)).encode(),))
    return packed


def rest_of(job: Job, task: ChunkTask) -> Tail:
    """What fills no sequence."""
    if task.begin == task.end:
        return EMPTY
    found = _gathered(job, task)
    return Tail(tokens=found.tokens.tolist(), starts=found.starts.tolist())


def packed_before(job: Job, task: ChunkTask) -> Packed | None:
    """The chunk of a task, if it is written."""
    folder = job.packed / task.folder
    try:
        packed = record_of(Packed, read_values(_done(job, task)))
    except (OSError, ValueError):
        return None
    files = packed.chunk.files() if packed.chunk else ()
    return packed if all(size_problem(folder / one.file, one) is None for one in files) else None


def _done(job: Job, task: ChunkTask) -> Path:
    """The file that says that a chunk is written."""
    settings = job.settings
    key = hashlib.sha256(json.dumps([asdict(task), settings.sequence_length, settings.packing]).encode())
    return job.work / DONE / f"{key.hexdigest()[:32]}.json"


def _write(job: Job, task: ChunkTask, folder: Path) -> Packed:
    folder.mkdir(parents=True, exist_ok=True)
    found, length = _gathered(job, task), job.settings.sequence_length
    if job.settings.packing == "concatenate":
        documents = SequenceDocuments.of_stream(found.starts, len(found.tokens) // length, length)
        return Packed(chunk=write_chunk(folder, task.number, [found.tokens], documents, length), padding=0)
    if not (text := len(found.tokens)):
        return Packed(chunk=None, padding=0)
    starts = found.starts if job.chat is None else parts_of(found.flags)
    sequences = fitted(starts, text, length)
    tokens, bounds = laid_out(found.tokens, sequences, length), bounds_of(sequences)
    packed = Packed(chunk=None, padding=len(tokens) - text)
    if job.chat is None:
        return replace(packed, chunk=write_chunk(folder, task.number, [tokens], bounds, length))
    learned = laid_out(found.flags & LEARNED > 0, sequences, length)
    return replace(
        packed,
        chunk=write_chunk(folder, task.number, [tokens], bounds, length, learned=learned),
        parts=len(starts),
        turns=int((found.flags & ANSWERS > 0).sum()),
        learned=int(learned.sum()),
    )


class _Gathered(NamedTuple):
    """Tokens, one after the other."""

    tokens: Tokens
    starts: NDArray[np.int64]
    """Where documents begin in them."""
    flags: Flags
    """What each of them is, where documents are conversations; otherwise nothing."""


def _gathered(job: Job, task: ChunkTask) -> _Gathered:
    """The tokens of a chunk; ``best_fit`` takes those documents that begin there."""
    cut = job.settings.packing == "concatenate"
    # A tail fills no sequence, so that all of it lies in the first chunk.
    tokens, starts = [np.array(task.tail.tokens, job.dtype)], [np.array(task.tail.starts, dtype=np.int64)]
    there, flags = len(tokens[0]), [np.empty(0, np.uint8)]
    for part in task.parts:
        found = _of_part(job, part, task.begin, task.end, cut=cut)
        tokens.append(found.tokens)
        starts.append(found.starts + (there if not cut else 0))
        flags.append(found.flags)
        there += len(found.tokens)
    return _Gathered(np.concatenate(tokens), np.concatenate(starts), np.concatenate(flags))


def _of_part(job: Job, part: Part, begin: int, end: int, *, cut: bool) -> _Gathered:
    """What a chunk gets of a spool; documents begin at places from the chunk's first token on, or from its own."""
    spool = Spool(job.spools / part.spool)
    lengths = spool.lengths()
    wanted = marks_of(job.marks, part.marks, len(lengths)) == part.split
    ends = np.cumsum(lengths)
    inside = part.first + np.cumsum(lengths[wanted]) - lengths[wanted]  # where each begins in the stream
    begins_here = (inside >= begin) & (inside < end)
    if not cut:
        wanted[wanted] = begins_here
    places = [slice(stop - size, stop) for stop, size in zip(ends[wanted], lengths[wanted], strict=True)]
    found = _taken(spool.tokens(), places, job.dtype)
    flags = (
        _taken(spool.flags(), places, np.dtype(np.uint8)) if spool.record.flagged else np.empty(0, np.uint8)
    )
    if not cut:
        return _Gathered(found, np.cumsum(lengths[wanted]) - lengths[wanted], flags)
    own = slice(max(0, begin - part.first), end - part.first)
    return _Gathered(found[own], inside[begins_here] - begin, flags)


def _taken(values: NDArray[Any], places: Sequence[slice], dtype: "np.dtype[Any]") -> NDArray[Any]:
    """What of the values lies at some places, one after the other."""
    taken = np.concatenate([*(values[place] for place in places), np.empty(0, dtype)])
    return taken.astype(dtype, copy=False)
