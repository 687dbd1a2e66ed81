"""What is left of a document of which text of evaluation tasks is cut out (arXiv:2005.14165, appendix C)."""

from collections.abc import Iterable
from typing import NamedTuple

from shear_lit.data.text.contamination.grams import Collision, Grams
from shear_lit.data.text.contamination.words import places_of

WINDOW_CHARACTERS = 200
"""Characters that go on each side of a gram."""
LEAST_CHARACTERS = 200
"""A piece with fewer is dropped."""
MOST_PIECES = 10
"""A document that falls into more is dropped."""


class Cleaned(NamedTuple):
    """A document without text of evaluation tasks."""

    pieces: list[str]
    """What is left, in order; the document itself where nothing is found."""
    collisions: list[Collision]
    """What was found."""
    shown: str
    """The words of the first gram, as they stand in the document; empty where nothing is found."""
    too_dirty: bool
    """Whether it fell into more than ``MOST_PIECES`` and was dropped."""


def cleaned(text: str, grams: Grams) -> Cleaned:
    """Cut every gram of ``grams`` out of ``text``, with ``WINDOW_CHARACTERS`` on each side.

    The pieces between are counted before those that are too short are dropped.
    """
    collisions = grams.find(text)
    if not collisions:
        return Cleaned([text], [], "", too_dirty=False)
    places = places_of(text)
    spans = [(places[one.first].start, places[one.first + one.words - 1].end) for one in collisions]
    pieces = [text[start:end] for start, end in _between(spans, len(text))]
    too_dirty = len(pieces) > MOST_PIECES
    kept = [] if too_dirty else [p for p in pieces if len(p) >= LEAST_CHARACTERS and not p.isspace()]
    return Cleaned(kept, collisions, text[slice(*spans[0])], too_dirty)


def _between(spans: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """What lies outside of all ``spans`` and their windows."""
    found, at = [], 0
    for start, end in sorted(spans):
        if start - WINDOW_CHARACTERS > at:
            found.append((at, start - WINDOW_CHARACTERS))
        at = max(at, end + WINDOW_CHARACTERS)
    return [*found, (at, size)] if at < size else found
