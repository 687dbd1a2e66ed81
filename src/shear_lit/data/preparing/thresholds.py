"""From which place on the documents of a domain have so many tokens: a histogram that is refined twice."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.text.documents import PLACES

_BITS = 16  # of the place that one pass looks at

Documents = Iterator[tuple[NDArray[np.uint64], NDArray[np.uint32]]]
"""Places and lengths in tokens of documents, a part after the other."""


def place_below(documents: Callable[[], Documents], top: float, tokens: int) -> tuple[float, int]:
    """The largest place, to 2^-32, from which up to ``top`` there are at least ``tokens``, and how many there are.

    If there are fewer, the place is 0.

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
