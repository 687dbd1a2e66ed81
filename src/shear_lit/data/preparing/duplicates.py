"""Dropping documents whose text came before, in whatever file, domain or earlier run; exactly, in bounded memory.

The hashes of all documents are cut into buckets by their places, on disk; each bucket is sorted in memory. The hashes
that are kept, sorted, are what later runs are compared with.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.tokens.spool import HASHES, Spool

BUCKET_DOCUMENTS = 1_000_000
"""Documents that are sorted in memory at once, about."""

_MOST_BUCKETS = 256  # open files; beyond so many buckets they grow
_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("index", "<u8")])


class Duplicates:
    """Which documents of many spools are dropped: one byte for each on disk, in the order of the spools."""

    def __init__(self, path: Path, spools: list[Spool]) -> None:
        """Take the file that ``find_duplicates`` wrote."""
        self._path = path
        self._starts = np.cumsum([0, *(spool.record.documents for spool in spools)])

    def of(self, spool: int) -> NDArray[np.bool_]:
        """Whether each document of spool number ``spool`` is dropped, Bool[documents]."""
        start, end = int(self._starts[spool]), int(self._starts[spool + 1])
        return np.fromfile(self._path, np.bool_, end - start, offset=start)

    def count(self, spool: int) -> int:
        """How many documents of spool number ``spool`` are dropped."""
        return int(self.of(spool).sum())


class _Bucket(NamedTuple):
    number: int
    buckets: int

    @property
    def first(self) -> int:
        """The first 32 bits of the first hash in it."""
        return -(-(self.number << 32) // self.buckets)


def find_duplicates(spools: list[Spool], directory: Path, earlier: Path | None, kept: Path) -> Duplicates:
    """Mark every document whose hash came before it.

    Args:
        spools: The documents, in the order in which the first of equal ones is kept.
        directory: Where the buckets and the marks are written.
        earlier: File of the sorted hashes that earlier runs kept, if there were any.
        kept: File to write: those and the new ones, sorted.
    """
    documents = sum(spool.record.documents for spool in spools)
    count = min(_MOST_BUCKETS, max(1, -(-documents // BUCKET_DOCUMENTS)))
    buckets = [directory / f"bucket-{number}" for number in range(count)]
    _fill(buckets, spools)
    marks = directory / "duplicates"
    with marks.open("wb") as file:
        file.truncate(documents)
    with kept.open("wb") as file:
        for number, path in enumerate(buckets):
            known = _known(earlier, _Bucket(number, count))
            file.write(_resolve(path, known, marks).tobytes())
            path.unlink()
        file.flush()
        os.fsync(file.fileno())
    return Duplicates(marks, spools)


def _fill(buckets: list[Path], spools: list[Spool]) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in buckets]
        start = 0
        for spool in spools:
            entries = _entries(spool, start)
            start += len(entries)
            numbers = ((entries["high"] >> np.uint64(32)) * np.uint64(len(buckets))) >> np.uint64(32)
            order = np.argsort(numbers, kind="stable")
            ends = np.searchsorted(numbers[order], np.arange(len(buckets)), side="right")
            for file, part in zip(files, np.split(entries[order], ends[:-1]), strict=True):
                file.write(part.tobytes())


def _entries(spool: Spool, start: int) -> NDArray[np.void]:
    hashes, _ = spool.documents()
    entries = np.empty(len(hashes), dtype=_ENTRY)
    entries["high"], entries["low"] = hashes[:, 0], hashes[:, 1]
    entries["index"] = np.arange(start, start + len(hashes))
    return entries


def _resolve(bucket: Path, known: NDArray[np.uint64], marks: Path) -> NDArray[np.uint64]:
    """Mark the duplicates of a bucket, and give its hashes, known ones included, sorted."""
    entries = np.fromfile(bucket, dtype=_ENTRY)
    high = np.concatenate([known[:, 0], entries["high"]])
    low = np.concatenate([known[:, 1], entries["low"]])
    order = np.lexsort((low, high))  # stable: of equal hashes the known one is first, then the first document
    high, low = high[order], low[order]
    again = np.zeros(len(order), dtype=np.bool_)
    again[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    dropped = order[again]
    if len(dropped):
        places = np.memmap(marks, dtype=np.bool_, mode="r+")
        places[entries["index"][dropped - len(known)]] = True
        places.flush()
    return np.stack([high[~again], low[~again]], axis=1)


def _known(earlier: Path | None, bucket: _Bucket) -> NDArray[np.uint64]:
    """The earlier hashes that belong into a bucket."""
    if earlier is None or not earlier.stat().st_size:
        return np.empty((0, 2), dtype=HASHES)
    hashes = np.memmap(earlier, dtype=HASHES, mode="r").reshape(-1, 2)
    start = _first_from(hashes, bucket.first)
    end = _first_from(hashes, bucket._replace(number=bucket.number + 1).first)
    return np.array(hashes[start:end])


def _first_from(hashes: NDArray[np.uint64], first: int) -> int:
    """How many of the sorted hashes begin with less than the 32 bits ``first``."""
    low, high = 0, len(hashes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if int(hashes[middle, 0]) >> 32 < first else (low, middle)
    return low


def places_and_lengths(
    spools: list[Spool], duplicates: Duplicates, numbers: list[int]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint32]]]:
    """The places and lengths in tokens of the documents that are not dropped, spool after spool.

    ``numbers`` says which of the spools known to ``duplicates`` these are.
    """
    for number, spool in zip(numbers, spools, strict=True):
        hashes, lengths = spool.documents()
        wanted = ~duplicates.of(number)
        yield hashes[wanted, 0], lengths[wanted]
