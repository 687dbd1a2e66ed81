"""Grams, runs of words, of evaluation tasks as sorted hashes of 64 bits, and where a document has one of them.

A gram is hashed as the sum of h(word) B^place modulo 2^64, so that those of a text are differences of one running sum;
h is SHA-256 cut to 64 bits. A word that no task has ends every gram, and its hash is not needed: what is looked words
up by is the vocabulary of the tasks. Worker processes import this module: it needs NumPy.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.text.contamination.tasks import Task
from shear_lit.data.text.contamination.words import words_of

Hashes = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_FILTER_BITS = 24


class Collision(NamedTuple):
    """A gram of a task in a document."""

    first: int
    """Its first word in the document."""
    words: int
    """How many it has."""
    task: int
    """The first of the tasks that have it."""
    hash: int
    """Its hash."""


@dataclass(frozen=True)
class _Table:
    """The grams of one length."""

    words: int
    hashes: Hashes
    """Sorted."""
    tasks: NDArray[np.uint32]
    """The first task of each."""

    def filter(self) -> NDArray[np.bool_]:
        """Which of the upper bits any of them has."""
        there = np.zeros(1 << _FILTER_BITS, dtype=bool)
        there[self.hashes >> np.uint64(64 - _FILTER_BITS)] = True
        return there


class Grams:
    """The grams of tasks, looked up in documents."""

    def __init__(
        self, vocabulary: Sequence[str], tables: Iterable[tuple[int, Hashes, NDArray[np.uint32]]]
    ) -> None:
        """Take words and, for each length, sorted hashes with the number of the task of each."""
        self._vocabulary = list(vocabulary)
        self._tables = [_Table(*table) for table in tables]
        self._number_of = {word: number for number, word in enumerate(self._vocabulary, start=1)}
        self._hash_of = np.array([0, *map(_word_hash, self._vocabulary)], dtype=np.uint64)
        self._filters = [table.filter() for table in self._tables]
        self._least = min((table.words for table in self._tables), default=0)

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task], lengths: Sequence[int]) -> "Grams":
        """Those of ``tasks``, of as many words as ``lengths`` says of each."""
        lists = [[words_of(example) for example in task.examples] for task in tasks]
        vocabulary = sorted({word for examples in lists for words in examples for word in words})
        hashing = cls(vocabulary, ())
        tables = []
        for length in sorted(set(lengths)):
            own = [number for number, one in enumerate(lengths) if one == length]
            found = [hashing._hashes(lists[number], length) for number in own]
            of = np.repeat(np.array(own, dtype=np.uint32), [len(part) for part in found])
            unique, first = np.unique(np.concatenate(found), return_index=True)
            tables.append((length, unique, of[first]))
        return cls(vocabulary, tables)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(len(table.hashes) for table in self._tables)

    def count_of(self, task: int) -> int:
        """How many the task has first."""
        return sum(int((table.tasks == task).sum()) for table in self._tables)

    def without(self, hashes: Hashes) -> "Grams":
        """Those that are not among ``hashes``."""
        kept = [(t, ~np.isin(t.hashes, hashes)) for t in self._tables]
        return Grams(self._vocabulary, [(t.words, t.hashes[keep], t.tasks[keep]) for t, keep in kept])

    def fingerprint(self) -> str:
        """SHA-256 of all that decides what is cut out: neither the names of tasks nor the order of their examples."""
        digest = hashlib.sha256()
        for table in self._tables:
            digest.update(
                f"{table.words}:{len(table.hashes)}\n".encode() + table.hashes.astype("<u8").tobytes()
            )
        return digest.hexdigest()

    def numbered(self) -> str:
        """SHA-256 of the same, and of the number of each gram's task."""
        digest = hashlib.sha256(self.fingerprint().encode())
        for table in self._tables:
            digest.update(table.tasks.astype("<u4").tobytes())
        return digest.hexdigest()

    def find(self, text: str) -> list[Collision]:
        """The grams that a document has, by their first word; the longest last where several begin there."""
        words = words_of(text)
        if len(words) < self._least or not self._tables:
            return []
        numbers = np.fromiter(map(self._number_of.get, words, repeat(0)), np.int64, len(words))
        sums, unknown = self._running(numbers)
        found: list[Collision] = []
        for table, there in zip(self._tables, self._filters, strict=True):
            hashes = _differences(sums, table.words)
            known = np.flatnonzero(unknown[table.words :] == unknown[: len(hashes)])
            places = known[there[hashes[known] >> np.uint64(64 - _FILTER_BITS)]]
            if not len(places):
                continue
            at = np.searchsorted(table.hashes, hashes[places])
            hit = table.hashes[np.minimum(at, len(table.hashes) - 1)] == hashes[places]
            found += [
                Collision(int(first), table.words, int(table.tasks[place]), int(hashes[first]))
                for first, place in zip(places[hit], at[hit], strict=True)
            ]
        return sorted(found)

    def save(self, path: Path) -> None:
        """Write them to a file, wholly or not at all, unless it holds them: others may be reading it."""
        arrays: dict[str, Any] = {
            "vocabulary": np.frombuffer("\n".join(self._vocabulary).encode(), dtype=np.uint8)
        }
        for table in self._tables:
            arrays |= {f"hashes-{table.words}": table.hashes, f"tasks-{table.words}": table.tasks}
        file = io.BytesIO()
        np.savez(file, lengths=np.array([table.words for table in self._tables], dtype=np.int64), **arrays)
        if not (path.is_file() and path.read_bytes() == file.getvalue()):
            write_part(path, (file.getvalue(),))

    @classmethod
    def load(cls, path: Path) -> "Grams":
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as found:
            lengths = found["lengths"].tolist()
            tables = [(n, found[f"hashes-{n}"], found[f"tasks-{n}"]) for n in lengths]
            text = found["vocabulary"].tobytes().decode()
        return cls(text.split("\n") if text else [], tables)

    def _hashes(self, examples: Sequence[Sequence[str]], length: int) -> Hashes:
        """The hashes of all grams of lists of known words."""
        numbers = [number for words in examples for number in (*map(self._number_of.__getitem__, words), 0)]
        sums, unknown = self._running(np.array(numbers, dtype=np.int64))
        hashes = _differences(sums, length)
        return hashes[unknown[length:] == unknown[: len(hashes)]]

    def _running(self, numbers: NDArray[np.int64]) -> tuple[Hashes, NDArray[np.int64]]:
        """The running sum of h(word) B^place, and that of the words that no task has; each begins with 0."""
        count = len(numbers)
        powers = _powers(_BASE, count)
        sums = np.zeros(count + 1, dtype=np.uint64)
        np.cumsum(self._hash_of[numbers] * powers, out=sums[1:])
        unknown = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(numbers == 0, out=unknown[1:])
        return sums, unknown


def _differences(sums: Hashes, length: int) -> Hashes:
    """The hash of each gram, whose bits are mixed so that the upper ones depend on all of its words."""
    count = max(0, len(sums) - length)
    hashes = (sums[length:] - sums[:count]) * _powers(_INVERSE, count)
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(32))


_POWERS: dict[int, Hashes] = {}


def _powers(base: int, count: int) -> Hashes:
    """1, B, B^2 … modulo 2^64; those of the longest text are kept."""
    there = _POWERS.get(base)
    if there is None or len(there) < count:
        made = np.full(max(count, 1 << 16), base, dtype=np.uint64)
        made[0] = 1
        there = _POWERS[base] = np.multiply.accumulate(made)
    return there[:count]


def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8])
