"""The order of the sequences of one domain, and a sample of them: keyed, and the same on every machine.

Nothing here depends on a library's random generator, whose streams may change between versions: a permutation
sorts the outputs of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

WINDOW_CHUNKS = 8
"""Sequences are shuffled among this many chunks: so many are open at a time."""

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_WINDOWS_KEPT = 2


def mixed(word: int) -> int:
    """The splitmix64 output of the state ``word`` (64 bits)."""
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def folded_key(*parts: int | str) -> int:
    """One 64-bit key of integers and texts; their order matters."""
    key = 0
    for part in parts:
        words = part.encode() if isinstance(part, str) else (part & _WORD,)
        for word in (len(words), *words):
            key = mixed(key ^ word)
    return key


def keyed_permutation(key: int, length: int) -> Indices:
    """The numbers 0 … ``length`` - 1 in an order that depends on ``key`` only.

    splitmix64 is a bijection, so its outputs are distinct and sorting them gives one order, whatever the sort.
    """
    return np.argsort(_outputs(key, length), kind="stable").astype(np.int64)


def keyed_fractions(key: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers in [0, 1) that depend on ``key`` only."""
    return (_outputs(key, count) >> np.uint64(11)).astype(np.float64) / (1 << 53)


def sample(name: str, chunk_sizes: Sequence[int], count: int, number: int = 0) -> Indices:
    """``count`` sequences of a domain, in order: one of each of ``count`` equal parts of it; all if there are fewer.

    It depends on the name, the chunks and the count, not on the seed of a run: losses of two runs are comparable. The
    first sequences would be those of the first files, which say little of the others.

    With more than ``WINDOW_CHUNKS`` chunks, so many are chosen in the same way, one of each part of the domain, or more
    where these do not hold ``count`` sequences; the parts are then those of what they hold. Remote data is fetched
    by chunk: 128 sequences of 1,000 chunks would fetch 128 of them, 8 GB for half a million tokens. Of a long domain
    this sees 8 places instead of 128, which are spread as evenly, and each of which holds thousands of documents.
    Samples of other numbers have others of each part.
    """
    sizes = np.asarray(chunk_sizes, dtype=np.int64)
    key = folded_key("sample", name, count, *([number] if number else []))
    chunks = np.empty(0, dtype=np.int64)
    wanted = WINDOW_CHUNKS
    while len(chunks) < len(sizes) and sizes[chunks].sum() < max(1, count):
        chunks = _one_of_each_part(mixed(key), len(sizes), wanted)
        wanted *= 2
    held = sizes[chunks]
    places = _one_of_each_part(key, int(held.sum()), count)
    ends = np.cumsum(held)
    inside = np.searchsorted(ends, places, side="right")
    return places + (np.cumsum(sizes)[chunks] - ends)[inside]


def _one_of_each_part(key: int, length: int, parts: int) -> Indices:
    """Of the numbers 0 … ``length`` - 1, cut into equal ``parts``, one of each; all of them if they are fewer."""
    if parts >= length:
        return np.arange(length, dtype=np.int64)
    begins = np.arange(parts + 1, dtype=np.int64) * length // parts
    inside = _outputs(key, parts) % np.diff(begins).astype(np.uint64)
    return begins[:-1] + inside.astype(np.int64)


def _outputs(key: int, count: int) -> NDArray[np.uint64]:
    """The first ``count`` outputs of splitmix64 from the state ``key``."""
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
        return z ^ (z >> np.uint64(31))


class DomainOrder:
    """The sequence that each draw from one domain gives, epoch after epoch.

    In each epoch the chunks are permuted, and the sequences are shuffled inside windows of ``WINDOW_CHUNKS`` chunks.
    """

    def __init__(self, name: str, chunk_sizes: Sequence[int], seed: int) -> None:
        self._key = (seed, "domain", name)
        self._sizes = np.asarray(chunk_sizes, dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self.sequences = int(self._sizes.sum())
        """Sequences of one epoch."""
        self._epoch: tuple[int, Indices, Indices] | None = None
        self._windows: OrderedDict[tuple[int, int], Indices] = OrderedDict()

    def draws(self, first: int, count: int) -> Indices:
        """The sequences that draws ``first`` … ``first + count - 1`` give."""
        parts = []
        while count > 0:
            part = self.rest_of_window(first)[:count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def rest_of_window(self, first: int) -> Indices:
        """The sequences that the draws from ``first`` on give, up to the end of their window."""
        epoch, offset = divmod(first, self.sequences)
        chunks, ends = self._chunks_of(epoch)
        window = int(np.searchsorted(ends, offset, side="right"))
        start = int(ends[window - 1]) if window else 0
        return self._window(epoch, window, chunks)[offset - start :]

    def _chunks_of(self, epoch: int) -> tuple[Indices, Indices]:
        """The chunks in this epoch's order, and the draw at which each window ends."""
        if self._epoch is None or self._epoch[0] != epoch:
            chunks = keyed_permutation(folded_key(*self._key, epoch), len(self._sizes))
            last = [*range(WINDOW_CHUNKS - 1, len(chunks) - 1, WINDOW_CHUNKS), len(chunks) - 1]
            self._epoch = (epoch, chunks, np.cumsum(self._sizes[chunks])[last])
        return self._epoch[1], self._epoch[2]

    def _window(self, epoch: int, window: int, chunks: Indices) -> Indices:
        place = (epoch, window)
        if place not in self._windows:
            inside = chunks[window * WINDOW_CHUNKS : (window + 1) * WINDOW_CHUNKS]
            ids = np.concatenate([self._starts[c] + np.arange(self._sizes[c]) for c in inside])
            self._windows[place] = ids[keyed_permutation(folded_key(*self._key, epoch, window), len(ids))]
            if len(self._windows) > _WINDOWS_KEPT:
                self._windows.popitem(last=False)
        return self._windows[place]
