"""Best-fit packing: which document goes into which sequence, and how sequences are laid out."""

from bisect import bisect_left, insort
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.prepared.chunks import SequenceDocuments
from shear_lit.data.tokens.spools import BEGINS

Value = TypeVar("Value", bound=np.generic)
Placed = list[list[tuple[int, int]]]
"""The documents of each sequence, in order: where each begins in the stream, and its length in tokens."""


def fitted(starts: NDArray[np.int64], tokens: int, length: int) -> Placed:
    """Give each document a sequence with the least room that it fits in; what is longer fills sequences of its own.

    The longest come first (best-fit decreasing; arXiv:2404.10830, section 2.2).

    Args:
        starts: Where documents begin, of ``tokens`` tokens.
        tokens: All of them.
        length: Tokens of a sequence.
    """
    pieces: list[tuple[int, int]] = []
    for first, size in zip(starts.tolist(), np.diff(np.append(starts, tokens)).tolist(), strict=True):
        pieces += [(first + at, min(length, size - at)) for at in range(0, size, length)]
    sequences: Placed = []
    rooms: list[tuple[int, int]] = []  # the room of each sequence that has some, and its number, in order
    for piece in sorted(pieces, key=lambda piece: (-piece[1], piece[0])):
        place = bisect_left(rooms, (piece[1], 0))
        if place == len(rooms):
            room, number = length, len(sequences)
            sequences.append([])
        else:
            room, number = rooms.pop(place)
        sequences[number].append(piece)
        if room > piece[1]:
            insort(rooms, (room - piece[1], number))
    return sequences


def parts_of(flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where the parts of conversations begin, none of which is longer than a sequence."""
    return np.flatnonzero(flags & BEGINS)


def laid_out(values: NDArray[Value], sequences: Placed, length: int) -> NDArray[Value]:
    """What stands in the sequences, one after the other, of one value for each token; padding is 0."""
    laid = np.zeros((len(sequences), length), dtype=values.dtype)
    for row, pieces in zip(laid, sequences, strict=True):
        at = 0
        for first, size in pieces:
            row[at : at + size] = values[first : first + size]
            at += size
    return laid.reshape(-1)


def bounds_of(sequences: Placed) -> SequenceDocuments:
    """Where documents begin in the sequences, and where the text of each ends."""
    starts, ends = list[int](), list[int]()
    for pieces in sequences:
        at = 0
        for _, size in pieces:
            starts.append(at)
            at += size
        ends.append(at)
    firsts = np.cumsum([0, *map(len, sequences)])
    return SequenceDocuments(
        firsts.astype(np.uint32), np.array(ends, dtype=np.uint32), np.array(starts, dtype=np.uint32)
    )
