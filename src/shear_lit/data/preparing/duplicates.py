"""Dropping documents whose text came before, in whatever file, domain or earlier run; exactly, in bounded memory.

The hashes of all documents are cut into buckets by their places, on disk; each bucket is sorted in memory. The hashes
that are kept, sorted, are what later runs are compared with.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.preparing.sections import Held, documents_of
from shear_lit.data.tokens.spools import HASHES

BUCKET_DOCUMENTS = 1_000_000
"""Documents that are sorted in memory at once, about."""

_MOST_BUCKETS = 256  # open files; beyond so many buckets they grow


def mark_duplicates(held: Sequence[Held], marks: Path, earlier: Path | None, kept: Path) -> None:
    """Mark every document whose hash came before it: one byte for each, in their order.

    Args:
        held: The documents, in the order in which the first of equal ones is kept.
        marks: File to write: 1 for a document that is dropped; the buckets are written beside it.
        earlier: File of the sorted hashes that earlier runs kept, if there were any.
        kept: File to write: those and the new ones, sorted.
    """
    documents = sum(map(documents_of, held))
    count = min(_MOST_BUCKETS, max(1, -(-documents // BUCKET_DOCUMENTS)))
    buckets = [marks.with_name(f"bucket-{number}") for number in range(count)]
    _fill(buckets, held)
    with marks.open("wb") as file:
        file.truncate(documents)
    with kept.open("wb") as file:
        for number, path in enumerate(buckets):
            file.write(_resolve(path, _known(earlier, number, count), marks).tobytes())
            path.unlink()
        file.flush()
        os.fsync(file.fileno())


def _fill(buckets: list[Path], held: Sequence[Held]) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in buckets]
        start = 0
        for one in held:
            entries = _entries(one, start)
            start += len(entries)
            numbers = ((entries[:, 0] >> np.uint64(32)) * np.uint64(len(buckets))) >> np.uint64(32)
            numbers = numbers.astype(np.uint16)  # of so few bits they are sorted in an eighth of the time
            order = np.argsort(numbers, kind="stable")
            ends = np.searchsorted(numbers[order], np.arange(len(buckets)), side="right")
            for file, part in zip(files, np.split(entries[order], ends[:-1]), strict=True):
                file.write(part.data)


def _entries(held: Held, start: int) -> NDArray[np.uint64]:
    """Both halves of each hash, and which document it is of: UInt64[documents, 3]."""
    hashes = held.hashes()
    entries = np.empty((len(hashes), 3), dtype=HASHES)
    entries[:, :2] = hashes
    entries[:, 2] = np.arange(start, start + len(hashes))
    return entries


def _resolve(bucket: Path, known: NDArray[np.uint64], marks: Path) -> NDArray[np.uint64]:
    """Mark the duplicates of a bucket, and give its hashes, known ones included, sorted."""
    entries = np.fromfile(bucket, dtype=HASHES).reshape(-1, 3)
    high = np.concatenate([known[:, 0], entries[:, 0]])
    low = np.concatenate([known[:, 1], entries[:, 1]])
    order = _sorted(high, low)  # of equal hashes the known one is first, then the first document
    high, low = high[order], low[order]
    again = np.zeros(len(order), dtype=np.bool_)
    again[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    dropped = order[again]
    if len(dropped):
        places = np.memmap(marks, dtype=np.bool_, mode="r+")
        places[entries[dropped - len(known), 2]] = True
        places.flush()
    return np.stack([high[~again], low[~again]], axis=1)


def _sorted(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.int64]:
    """What ``lexsort((low, high))`` gives, in a quarter of the time: few have the same first half."""
    order = np.argsort(high)
    same = high[order[1:]] == high[order[:-1]]
    tied = np.zeros(len(order), dtype=np.bool_)
    tied[1:] |= same
    tied[:-1] |= same
    those = np.sort(order[tied])  # stable from here on
    order[tied] = those[np.lexsort((low[those], high[those]))]
    return order


def _known(earlier: Path | None, number: int, buckets: int) -> NDArray[np.uint64]:
    """The earlier hashes that belong into a bucket."""
    if earlier is None or not earlier.stat().st_size:
        return np.empty((0, 2), dtype=HASHES)
    hashes = np.memmap(earlier, dtype=HASHES, mode="r").reshape(-1, 2)
    start, end = (_first_from(hashes, -(-(n << 32) // buckets)) for n in (number, number + 1))
    return np.array(hashes[start:end])


def _first_from(hashes: NDArray[np.uint64], first: int) -> int:
    """How many of the sorted hashes begin with less than the 32 bits ``first``."""
    low, high = 0, len(hashes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if int(hashes[middle, 0]) >> 32 < first else (low, middle)
    return low
