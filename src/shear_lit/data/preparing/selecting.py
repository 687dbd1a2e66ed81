"""Which documents go where: duplicates are dropped, and places that hashes name are divided among the splits.

A document's **place** is the first 64 bits of its hash. Each split has a range of the places, which is frozen when a
domain is first prepared, so that no document ever changes its split.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import SPLITS, Bounds
from shear_lit.data.preparing.sections import Held, documents_of
from shear_lit.data.preparing.settings import CommonSettings, SplitShares, SplitTokens
from shear_lit.data.text.documents import PLACES, place_of

_NOWHERE, _AGAIN = 254, 255  # what a document's byte says, where it is no number of a split
_BITS = 16  # of the place that one pass looks at
_LAST = float(np.nextafter(1.0, 0.0))  # rounding may call the last places 1, which no split's range includes

Documents = Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]
"""Places and lengths in tokens of documents, a part after the other."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a split of a domain gets of one spool."""

    spool: str
    """Name of the spool."""
    marks: int
    """Where the bytes of its documents begin in the file of marks."""
    documents: int
    """Its documents that belong into the split."""
    tokens: int
    """Their tokens."""


@dataclass
class Selection:
    """Where the documents of one domain go."""

    bounds: Bounds
    """The places of each split."""
    chosen: dict[str, list[Chosen]]
    """What each split gets of each spool, in order."""
    duplicates: dict[str, int]
    """Documents that would be in each split, had their text not come before."""
    dropped: int
    """Documents of the domain whose text came before."""
    unused: int
    """Documents that no split wants."""


class Marks:
    """One byte for each document that is held, on disk: whether it is dropped, later the number of its split."""

    def __init__(self, path: Path, held: Sequence[Held]) -> None:
        """Take the file that ``mark_duplicates`` wrote."""
        self.path, self.held = path, held
        self.starts = list(accumulate(map(documents_of, held), initial=0))
        """Where the bytes of each begin."""

    def of(self, number: int) -> NDArray[np.uint8]:
        """The bytes of documents that are held together, UInt8[documents]."""
        return marks_of(self.path, self.starts[number], documents_of(self.held[number]))

    def set(self, number: int, marks: NDArray[np.uint8]) -> None:
        """Change the bytes of documents that are held together."""
        with self.path.open("r+b") as file:
            file.seek(self.starts[number])
            file.write(marks.astype(np.uint8).tobytes())

    def fingerprint(self) -> str:
        """SHA-256 of all of them."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def marks_of(path: Path, start: int, documents: int) -> NDArray[np.uint8]:
    """The bytes of so many documents."""
    return np.fromfile(path, np.uint8, documents, offset=start)


def select(
    domain: str, marks: Marks, numbers: Sequence[int], settings: CommonSettings, frozen: Bounds | None
) -> Selection:
    """Divide the documents of ``domain``, which are those held as ``numbers``, and write it into ``marks``.

    Args:
        domain: Its name.
        marks: Which documents came before; afterwards, of those of the domain, where each goes.
        numbers: Which of all that are held.
        settings: Shares and sizes of the splits.
        frozen: The places of each split, if the domain was prepared before.

    Raises:
        DataError: there are not so many tokens as a split is to have.
    """
    bounds = frozen or _bounds(domain, marks, numbers, settings)
    found = Selection(bounds, {split: [] for split in bounds}, dict.fromkeys(bounds, 0), 0, 0)
    for number in numbers:
        again, held = marks.of(number) > 0, marks.held[number]
        lengths, splits = held.lengths(), _splits_of(bounds, held.hashes()[:, 0])
        counts = [count for _, count in held.spools]
        starts = list(accumulate(counts, initial=marks.starts[number]))
        spool_of = np.repeat(np.arange(len(counts)), counts)
        found.dropped += int(again.sum())
        found.unused += int(((splits == _NOWHERE) & ~again).sum())
        for index, split in enumerate(bounds):
            wanted = (splits == index) & ~again
            documents = np.bincount(spool_of[wanted], minlength=len(counts)).tolist()
            tokens = np.bincount(spool_of[wanted], lengths[wanted], len(counts)).astype(np.int64).tolist()
            found.chosen[split] += [
                Chosen(name, starts[index], documents[index], tokens[index])
                for index, (name, _) in enumerate(held.spools)
            ]
            found.duplicates[split] += int(((splits == index) & again).sum())
        marks.set(number, np.where(again, _AGAIN, splits))
    return found


def split_of(shares: SplitShares, text: str) -> str:
    """The split of the document ``text`` where all splits are sized by their shares."""
    bounds = split_bounds(shares, SplitTokens(), lambda *_: 0.0)
    place = min(place_of(text), _LAST)
    return next(name for name, (low, high) in bounds.items() if low <= place < high)


def split_bounds(
    shares: SplitShares, tokens: SplitTokens, place_below: Callable[[str, float, int], float]
) -> Bounds:
    """The places of every split that gets any.

    Args:
        shares: Fractions of what the splits sized in tokens leave.
        tokens: Tokens of these.
        place_below: Given a split, a place and a number of tokens, the place from which up to the first one there are
            at least so many tokens.
    """
    bounds: Bounds = {}
    top = 1.0
    for split in reversed(SPLITS):
        if wanted := getattr(tokens, split):
            low = place_below(split, top, wanted)
            bounds[split], top = (low, top), low
    bounds = _shared(shares, [s for s in SPLITS if s not in bounds], top) | bounds
    return {split: bounds[split] for split in SPLITS if split in bounds}


def place_below(documents: Callable[[], Documents], top: float, tokens: int) -> tuple[float, int]:
    """The largest place, to 2^-32, from which up to ``top`` there are at least ``tokens``, and how many there are.

    If there are fewer, the place is 0. A histogram is refined twice.

    Args:
        documents: Gives all documents, once for each pass.
        top: Documents from this place on do not count.
        tokens: How many are wanted.
    """
    low, width = 0, PLACES  # the answer is in [low, low + width)
    above = there = 0  # above: the tokens behind that, below top
    for _ in range(2):
        width >>= _BITS
        bins = _histogram(documents(), low, width, top)
        from_each_on = np.cumsum(bins[::-1])[::-1] + above
        enough = np.flatnonzero(from_each_on >= tokens)
        if not len(enough):
            return 0.0, int(from_each_on[0])
        chosen = int(enough[-1])
        there = int(from_each_on[chosen])
        above = there - int(bins[chosen])
        low += chosen * width
    return low / PLACES, there


def _bounds(domain: str, marks: Marks, numbers: Sequence[int], settings: CommonSettings) -> Bounds:
    def documents() -> Documents:
        for number in numbers:
            held, kept = marks.held[number], marks.of(number) == 0
            yield held.hashes()[kept, 0], held.lengths()[kept]

    def place(split: str, top: float, tokens: int) -> float:
        found, there = place_below(documents, top, tokens)
        if there < tokens:
            raise DataError(
                f"{tokens}: domain {domain!r} has {there:,} tokens left for this split. "
                f"Lower tokens.{split}, add text, or set it to 0 and use shares.{split}.",
                key=f"tokens.{split}",
            )
        return found

    return split_bounds(settings.shares, settings.tokens, place)


def _splits_of(bounds: Mapping[str, tuple[float, float]], places: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The index in ``bounds`` of the split of each place."""
    fractions = np.minimum(places.astype(np.float64) / PLACES, _LAST)
    found = np.full(len(places), _NOWHERE, dtype=np.uint8)
    for index, (low, high) in enumerate(bounds.values()):
        found[(fractions >= low) & (fractions < high)] = index
    return found


def _shared(shares: SplitShares, splits: list[str], top: float) -> Bounds:
    wanted = {name: getattr(shares, name) for name in splits if getattr(shares, name) > 0}
    bounds, lower, running = {}, 0.0, 0.0
    for name, share in wanted.items():
        running += share
        last = name == list(wanted)[-1]  # rounding must not leave places between the last split and the top
        upper = top if last else top * running / sum(wanted.values())
        bounds[name], lower = (lower, upper), upper
    return bounds


def _histogram(documents: Documents, low: int, width: int, top: float) -> NDArray[np.int64]:
    """Tokens in each of 2^16 ranges of places, ``width`` wide, from ``low`` on."""
    bins = np.zeros(1 << _BITS, dtype=np.int64)
    end = low + (width << _BITS)
    for places, lengths in documents:
        wanted = (places >= np.uint64(low)) & (places.astype(np.float64) / PLACES < top)
        if end < PLACES:
            wanted &= places < np.uint64(end)
        indices = ((places[wanted] - np.uint64(low)) // np.uint64(width)).astype(np.int64)
        bins += np.bincount(indices, weights=lengths[wanted], minlength=len(bins)).astype(np.int64)
    return bins
