"""The files of a teacher's cache: what it says of some sequences of a domain, found by (domain, sequence).

``<directory>/<domain>/000000256-000000512.taught`` is of the sequences that a run with the cache's seed draws at these
places of its first epoch. It holds their numbers (int64), what is said of each (``CacheRecord.sequence_type``), and the
SHA-256 of all that. It appears whole or not at all, and the same whoever writes it: any number of processes may work
on one cache, and one that was killed is gone on from.
"""

import fcntl
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.order.permutation import DomainOrder, Indices
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.taught.record import KEY, CacheRecord
from shear_lit.disk.names import expanded, is_elsewhere
from shear_lit.theory.sparse import Sparse, outcomes_negative_entropy

Answers = NDArray[np.void]
"""What is said of some sequences, one ``CacheRecord.sequence_type`` each."""

_NAME = re.compile(r"(\d{9,})-(\d{9,})\.taught")
_NUMBER, _HASH_BYTES, _OPEN_FILES = np.dtype("<i8"), 32, 64


class MissingSequence(DataError):
    """A sequence that a run draws and its cache does not have."""

    exit_code = 1


class Piece(NamedTuple):
    """The sequences that one file is of."""

    domain: str
    first: int
    """The place of the first in the order of the draws."""
    sequences: Indices
    """Their numbers inside the domain."""

    def path(self, directory: Path) -> Path:
        """Its file."""
        last = self.first + len(self.sequences)
        return directory / self.domain / f"{self.first:09d}-{last:09d}.taught"


def pieces(record: CacheRecord, manifest: Manifest, sequences_per_domain: int) -> Iterator[Piece]:
    """What a cache consists of that holds the first draws of each domain, or with 0 all of its sequences."""
    for name, sizes in manifest.chunk_sizes(record.split).items():
        order, size = DomainOrder(name, sizes, record.seed), record.sequences_per_file
        wanted = min(sequences_per_domain or order.sequences, order.sequences)
        for first in range(0, wanted, size):
            yield Piece(name, first, order.draws(first, min(size, wanted - first)))


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether a file is this process's to write: it is not there, and nobody else is at work on it."""
    if path.exists():
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        for left in path.parent.glob(f"{path.name}.*.part"):  # by a process that was killed
            left.unlink(missing_ok=True)
        try:
            yield not path.exists()
        finally:
            lock.unlink(missing_ok=True)


def write_piece(path: Path, numbers: Indices, answers: Answers) -> None:
    """Write one file, wholly or not at all."""
    parts = [np.ascontiguousarray(numbers, dtype=_NUMBER).tobytes(), np.ascontiguousarray(answers).tobytes()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    write_part(path, [*parts, digest.digest()])


def answers_of(said: Sparse, record: CacheRecord) -> Answers:
    """What is stored of a teacher's answers to some sequences, Sparse[sequences, tokens]."""
    answers = np.empty(len(said.tokens), dtype=record.sequence_type)
    for name in answers.dtype.names or ():
        answers[name] = getattr(said, name).cpu().numpy()
    return answers


class TeacherCache:
    """What a teacher said of the sequences of prepared data; each file is verified when it is first read from."""

    def __init__(self, record: CacheRecord, manifest: Manifest) -> None:
        """Look through the files of a cache, which was made for the data of ``manifest``.

        Raises:
            DamagedData: a file is not whole, or is of sequences that the data does not have.
        """
        self.record, self._root = record, expanded(record.place)
        sizes = manifest.chunk_sizes(record.split)
        self._type = record.sequence_type
        self._files: list[Path] = []
        self._places = [self._index(name, sum(chunks)) for name, chunks in sizes.items()]
        self._names = tuple(sizes)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._verified: set[int] = set()

    def has(self, domain: int, sequences: Indices) -> NDArray[np.bool_]:
        """Which of some sequences of a domain it holds."""
        found: NDArray[np.bool_] = self._places[domain][sequences, 0] >= 0
        return found

    def missing(self, keys: Sequence[tuple[int, int]]) -> list[int]:
        """Which of some (domain, sequence) it does not hold, by their place in ``keys``."""
        return [row for row, (domain, sequence) in enumerate(keys) if self._places[domain][sequence, 0] < 0]

    def read(self, keys: Sequence[tuple[int, int]]) -> Sparse:
        """What was said of some sequences, [sequences, tokens].

        Raises:
            MissingSequence: one is not there.
            DamagedData: a file is not what was written.
        """
        if absent := self.missing(keys):
            domain, sequence = keys[absent[0]]
            raise MissingSequence(
                f"{self.record.place!r}: it does not have sequence {sequence} of {self._names[domain]}, which the run "
                "draws. Add to it with `shear-lit teach`, or use model.distillation.missing=compute.",
                key=KEY,
            )
        return self._sparse(np.concatenate([self._answer(*self._places[d][s]) for d, s in keys]))

    def _sparse(self, answers: Answers) -> Sparse:
        tokens = torch.from_numpy(answers["tokens"].astype(np.int64))
        if self.record.method == "sampled":
            shares = torch.full(tokens.shape, 1 / self.record.kept)
            return Sparse(tokens, shares, None, torch.from_numpy(answers["negative_entropy"].copy()))
        shares, outside = (torch.from_numpy(answers[name].copy()) for name in ("shares", "outside"))
        entropy = outcomes_negative_entropy(shares.double(), outside.double()).float()
        return Sparse(tokens, shares, outside, entropy)

    def _index(self, name: str, sequences: int) -> NDArray[np.int32]:
        """The file and the row of each sequence of a domain; -1 where it is in none."""
        places = np.full((sequences, 2), -1, dtype=np.int32)
        folder = self._root / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not _NAME.fullmatch(path.name):
                continue
            numbers = self._numbers(path)
            if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < sequences:
                raise self._damaged(path, "it is of sequences that the data does not have")
            places[numbers, 0], places[numbers, 1] = len(self._files), np.arange(len(numbers))
            self._files.append(path)
        return places

    def _numbers(self, path: Path) -> Indices:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        count = int(match[2]) - int(match[1])
        size = count * (_NUMBER.itemsize + self._type.itemsize) + _HASH_BYTES
        if is_elsewhere(path, self._root) or not path.is_file() or path.stat().st_size != size:
            raise self._damaged(path, f"a file of {size:,} bytes is expected")
        return np.fromfile(path, _NUMBER, count)

    def _answer(self, file: np.int32, row: np.int32) -> Answers:
        descriptor = self._descriptor(int(file))
        begin = os.fstat(descriptor).st_size - _HASH_BYTES
        rows = begin // (_NUMBER.itemsize + self._type.itemsize)
        offset = rows * _NUMBER.itemsize + int(row) * self._type.itemsize
        return np.frombuffer(os.pread(descriptor, self._type.itemsize, offset), self._type)

    def _descriptor(self, file: int) -> int:
        if file not in self._open:
            if file not in self._verified:
                self._verify(self._files[file])
                self._verified.add(file)
            self._open[file] = os.open(self._files[file], os.O_RDONLY)
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(file)
        return self._open[file]

    def _verify(self, path: Path) -> None:
        content = path.read_bytes()
        body = content[:-_HASH_BYTES]
        if hashlib.sha256(body).digest() != content[-_HASH_BYTES:]:
            raise self._damaged(path, "its bytes are not those that were written (their SHA-256 differs)")
        answers = np.frombuffer(body, self._type, offset=len(self._numbers(path)) * _NUMBER.itemsize)
        if int(answers["tokens"].max(initial=0)) >= self.record.vocabulary:
            raise self._damaged(path, f"it has a token beyond the {self.record.vocabulary:,} of its teacher")

    def _damaged(self, path: Path, what: str) -> DamagedData:
        return DamagedData(
            f"{self.record.place!r}: {path}: {what}: it is damaged or half-copied. Remove that file, and run "
            "`shear-lit teach` again.",
            key=KEY,
        )

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)


def bytes_per_token(record: CacheRecord) -> float:
    """What a token takes on disk."""
    return record.sequence_type.itemsize / record.sequence_length
