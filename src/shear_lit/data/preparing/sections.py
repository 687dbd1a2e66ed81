"""Sections: what of the inputs one part of a run tokenises as a whole, and what is known of it when that is done.

A section is a small input, several files of a document each, or a range of the pieces of a large file. It depends on
the inputs and on ``unit_bytes`` alone. Whoever has tokenised it writes two files, each of them whole or not there:
``<section>.documents``, the hashes and then the lengths of all of its documents, and ``<section>.json``, which says
what its pieces of work are. So those who divide the documents read a few large files instead of every spool.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.preparing.job import Job
from shear_lit.data.storage.s3 import is_address
from shear_lit.data.text.kind import Piece
from shear_lit.data.text.kinds.json_files import holds_array, is_json_file
from shear_lit.data.text.pieces import pieces
from shear_lit.data.text.sources import Source
from shear_lit.data.tokens.encoding import Encoded
from shear_lit.data.tokens.spools import HASHES, LENGTHS, Spool, SpoolRecord
from shear_lit.disk.records import read_values, record_of

SECTION_PIECES = 256
"""Pieces of work of a section that is a range of a large file."""

_MOST_FILES = 1024  # of a document each, which are a section together
_MOST_BYTES = 1 << 30  # of a file that says what a section is


class Held(Protocol):
    """Documents that were tokenised: a section's, or those of one spool."""

    @property
    def spools(self) -> tuple[tuple[str, int], ...]:
        """The names of the spools with their tokens, in order, and how many documents each holds."""

    def hashes(self) -> NDArray[np.uint64]:
        """Their hashes, UInt64[documents, 2], the more significant half first."""

    def lengths(self) -> NDArray[np.int64]:
        """Their lengths in tokens, Int64[documents]."""


def documents_of(held: Held) -> int:
    """How many documents there are."""
    return sum(count for _, count in held.spools)


@dataclass(frozen=True, kw_only=True)
class Section:
    """What is tokenised as a whole."""

    sources: tuple[Source, ...]
    """The inputs, all of one domain."""
    first: int = 0
    """Its first piece of work, among those of its inputs."""
    last: int | None = None
    """The first that is not its own; without it, it has all others."""
    file: str = ""
    """The file that says that it is done, where a pipeline has chosen it."""

    @property
    def domain(self) -> str:
        """The domain of its inputs."""
        return self.sources[0].domain

    def pieces(self, job: Job, sources: Sequence[Source]) -> Iterator[Piece]:
        """Its pieces of work, of those of its inputs that are in ``sources``.

        Raises:
            DataError: an input cannot be read.
        """
        return islice(pieces(sources, job), self.first, self.last)

    def bytes(self, unit_bytes: int) -> int:
        """Its size on disk, where it is a range of a large file by its pieces."""
        whole = sum(source.bytes for source in self.sources)
        end = whole if self.last is None else min(whole, self.last * unit_bytes)
        return max(0, end - self.first * unit_bytes)


@dataclass(frozen=True, kw_only=True)
class DonePiece:
    """A piece of work that is done."""

    inputs: tuple[int, ...]
    """Which of the section's inputs it holds something of; of several, each is one document."""
    spool: str
    """Name of its spool."""
    contents: tuple[str, ...]
    """What it holds of each input, as ``encoding.contents_of`` says, in hexadecimal digits."""
    record: SpoolRecord
    """What the spool holds."""


@dataclass(frozen=True, kw_only=True)
class SectionRecord:
    """A section that is done."""

    stamps: tuple[str, ...]
    """The size of each input and when it was changed; nothing, where that does not tell whether it is the same."""
    known: tuple[int, ...]
    """Inputs that the data holds already, and of which nothing was tokenised."""
    pieces: tuple[DonePiece, ...]
    """Its pieces of work, in order."""


class SectionDocuments:
    """The documents of a section, read from its file; see ``Held``."""

    def __init__(self, path: Path, record: SectionRecord) -> None:
        """Take the file beside that of the section."""
        self._path, self.spools = path, tuple((one.spool, one.record.documents) for one in record.pieces)
        self._count = documents_of(self)

    def hashes(self) -> NDArray[np.uint64]:
        """As in ``Held``."""
        return np.fromfile(self._path, HASHES, 2 * self._count).reshape(-1, 2)

    def lengths(self) -> NDArray[np.int64]:
        """As in ``Held``."""
        offset = 2 * HASHES.itemsize * self._count
        return np.fromfile(self._path, LENGTHS, self._count, offset=offset).astype(np.int64)


class SectionFiles:
    """Where the sections of a job are, and what of them is done; data that the job adds to is named by ``before``."""

    def __init__(self, job: Job, before: Manifest | None) -> None:
        """Look in ``job.sections``; what was done with other settings, or to be added to other data, is not found."""
        self._job = job
        self._key = json.dumps([job.reading_key, before.fingerprint if before else "", SECTION_PIECES])

    def path(self, section: Section) -> Path:
        """The file that says that a section is done."""
        if section.file:
            return self._job.sections / section.file
        of_inputs = [(one.domain, one.name, one.kind, one.bytes) for one in section.sources]
        content = json.dumps([self._key, of_inputs, section.first, section.last])
        return self._job.sections / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"

    def read(self, section: Section) -> SectionRecord | None:
        """What is known of a section; nothing, if it is not done."""
        return read_record(self.path(section))

    def documents(self, section: Section, record: SectionRecord) -> SectionDocuments:
        """The documents of a section that is done."""
        return SectionDocuments(self.path(section).with_suffix(".documents"), record)

    def is_done(self, section: Section) -> bool:
        """Whether a section is done, its inputs have not been written since, and its spools are there."""
        record = self.read(section)
        if record is None or "" in record.stamps or record.stamps != stamps(section.sources):
            return False
        try:
            return all(Spool(self._job.spools / one.spool).record == one.record for one in record.pieces)
        except (OSError, ValueError):
            return False

    def write(
        self,
        section: Section,
        known: Iterable[Source],
        done: Sequence[tuple[Piece, Encoded]],
        stamps: tuple[str, ...],
    ) -> None:
        """Write what is known of a section whose pieces are ``done``."""
        number = {source.name: index for index, source in enumerate(section.sources)}
        record = SectionRecord(
            stamps=stamps,
            known=tuple(number[source.name] for source in known),
            pieces=tuple(
                done_piece([number[name] for name in piece.inputs], encoded) for piece, encoded in done
            ),
        )
        write_record(self.path(section), record, self._job.spools)


def done_piece(inputs: Sequence[int], encoded: Encoded) -> DonePiece:
    """What is known of a piece of work, given which inputs of its section it holds something of."""
    contents = tuple(f"{content:x}" for content in encoded.contents)
    return DonePiece(inputs=tuple(inputs), spool=encoded.spool, contents=contents, record=encoded.record)


def write_record(path: Path, record: SectionRecord, spools: Path) -> None:
    """Write the files of a section that is done."""
    own = [Spool(spools / one.spool) for one in record.pieces]
    documents: list[NDArray[Any]] = [spool.hashes() for spool in own]
    documents += [spool.lengths().astype(LENGTHS) for spool in own]
    write_part(
        path.with_suffix(".documents"), (np.ascontiguousarray(part).data for part in documents if len(part))
    )
    write_part(path, (json.dumps(asdict(record)).encode(),))


def read_record(path: Path) -> SectionRecord | None:
    """What the file of a section says; nothing, if it is not there or not whole."""
    try:
        return record_of(SectionRecord, read_values(path, limit=_MOST_BYTES))
    except (OSError, ValueError):
        return None


def sections(sources: Sequence[Source], job: Job, *, whole: bool) -> Iterator[Section]:
    """The sections of all inputs, in their order; with ``whole``, none is a part of an input.

    Raises:
        DataError: an input cannot be read.
    """
    group, size = list[Source](), 0
    for source in sources:
        is_small = source.kind == "text"
        is_full = len(group) == _MOST_FILES or size >= job.unit_bytes
        if group and (is_full or not is_small or source.domain != group[0].domain):
            yield Section(sources=tuple(group))
            group, size = [], 0
        if is_small:
            group.append(source)
            size += source.bytes
        else:
            yield from _of_large(source, job, whole=whole)
    if group:
        yield Section(sources=tuple(group))


def _of_large(source: Source, job: Job, *, whole: bool) -> Iterator[Section]:
    """An input, cut where it has many pieces that can be told without reading it."""
    count = -(-source.bytes // job.unit_bytes)
    if whole or source.kind != "lines" or count <= SECTION_PIECES or _may_hold_array(source):
        yield Section(sources=(source,))
        return
    for first in range(0, count, SECTION_PIECES):
        yield Section(sources=(source,), first=first, last=min(count, first + SECTION_PIECES))


def _may_hold_array(source: Source) -> bool:
    return is_json_file(source.name) if is_address(source.name) else holds_array(source)


def dealt(all_sections: Sequence[Section], part: int, parts: int, unit_bytes: int) -> list[Section]:
    """The sections of part number ``part`` of ``parts``, from 1: the largest go first, each to who has least."""
    loads = [(0, number) for number in range(1, parts + 1)]
    own = []
    for index in sorted(range(len(all_sections)), key=lambda i: (-all_sections[i].bytes(unit_bytes), i)):
        load, number = loads[0]
        heapq.heapreplace(loads, (load + all_sections[index].bytes(unit_bytes), number))
        if number == part:
            own.append(index)
    return [all_sections[index] for index in sorted(own)]


def stamps(sources: Iterable[Source]) -> tuple[str, ...]:
    """What tells that an input has not been written since, for each: nothing, where no single file is all of it."""
    return tuple(_stamp(source) for source in sources)


def _stamp(source: Source) -> str:
    if source.version:
        return f"{source.bytes} {source.version}"
    path = Path(source.name)
    if source.kind == "megatron" or not path.is_file():
        return ""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
