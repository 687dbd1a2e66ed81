"""Lines, or runs of tokens, of one part of a file: each belongs to the part that it begins in.

A part is read from its start to its end, and on to the end of the last item that begins in it: but never further than
that item may be long. All parts of a file together therefore read it about once, however long its lines are.
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, TypeVar

MOST_LINE_BYTES = 1 << 30
"""A longer line is no document: a compressed file of a few megabytes may hold one that takes hours to skip."""

_CHUNK, _FIRST_STEP = 1 << 20, 1 << 12  # read at once; and at first, beyond the end of a part

Chunk = TypeVar("Chunk", bytes, Any)


class EndlessLineError(OSError):
    """A line that is too long even to be skipped."""

    def __init__(self, position: int) -> None:
        super().__init__(
            errno.EFBIG,
            f"the line at byte {position:,} of what it holds has more than {MOST_LINE_BYTES:,} bytes, which is no text",
        )


def items(
    chunks: Iterable[Chunk],
    ends: Callable[[Chunk], Iterable[int]],
    *,
    limit: int,
    position: int = 0,
    end: int | None = None,
    begun: bool = True,
    most: int | None = None,
) -> Iterator[list[Chunk]]:
    """The items that begin in a part of a file, each in pieces, with what ends it; cut after ``limit`` + 1 or more.

    Args:
        chunks: The file from ``position`` on; no more is taken than is needed.
        ends: The places in a chunk that come just behind the end of an item.
        limit: What an item may have; of a longer one no more than this and a chunk is kept.
        position: Where the first chunk lies.
        end: Where the part ends; without it, with the file.
        begun: Whether an item begins at ``position``; otherwise the one that is there belongs to the part before.
        most: What an item may have to be skipped.

    Raises:
        EndlessLineError: an item has more than ``most``.
    """
    parts: list[Chunk] = []
    size = 0
    for chunk in chunks:
        at = 0
        for stop in ends(chunk):
            if begun:
                yield [*parts, chunk[at:stop]] if size <= limit else parts
            begun, parts, size, at = True, [], 0, stop
            if end is not None and position + stop >= end:
                return
        position += len(chunk)
        if begun and at < len(chunk):
            if size <= limit:
                parts.append(chunk[at:])
            size += len(chunk) - at
        if most is not None and size > most:
            raise EndlessLineError(position - size)
        if end is not None and position >= end and (size > limit or not begun):
            break
    if begun and parts:
        yield parts


def lines_of_range(file: IO[bytes], start: int, end: int, limit: int) -> Iterator[bytes]:
    """The lines that begin in [start, end) with their newlines, those of more than ``limit`` bytes cut after more."""
    first = max(0, start - 1)  # whether a line begins at start is told by the byte before
    file.seek(first)
    chunks = chunks_of_range(file.read, first, end)
    for parts in items(chunks, _newlines, limit=limit, position=first, end=end, begun=not start):
        yield _joined(parts, limit)


def lines_of_stream(file: IO[bytes], limit: int) -> Iterator[bytes]:
    """The lines of ``file``, which is at its beginning, as ``lines_of_range`` gives them.

    Raises:
        EndlessLineError: a line has more than ``MOST_LINE_BYTES``.
    """
    for parts in items_of_stream(file, _newlines, limit=limit):
        yield _joined(parts, limit)


def items_of_stream(
    file: IO[bytes], ends: Callable[[bytes], Iterable[int]], *, limit: int
) -> Iterator[list[bytes]]:
    """The items of ``file``, which is at its beginning; see ``items``.

    Raises:
        EndlessLineError: an item has more than ``MOST_LINE_BYTES``.
    """
    return items(_chunks_of_stream(file), ends, limit=limit, most=MOST_LINE_BYTES)


def lines_of_block(block: bytes, limit: int) -> Iterator[bytes]:
    """The lines of ``block``, as ``lines_of_range`` gives them."""
    for parts in items([block], _newlines, limit=limit):
        yield _joined(parts, limit)


def chunks_of_range(read: Callable[[int], Chunk], start: int, end: int) -> Iterator[Chunk]:
    """What lies from ``start`` on, in chunks of which one ends at ``end``, and small ones after it, then larger."""
    step = _FIRST_STEP
    while True:
        if start >= end:
            size, step = step, min(2 * step, _CHUNK)
        else:
            size = min(_CHUNK, end - start)
        chunk = read(size)
        if not len(chunk):
            return
        start += len(chunk)
        yield chunk


def _chunks_of_stream(file: IO[bytes]) -> Iterator[bytes]:
    """What is left of ``file``, in chunks."""
    while chunk := file.read(1 << 16):
        yield chunk


def _newlines(chunk: bytes) -> Iterator[int]:
    stop = chunk.find(b"\n") + 1
    while stop:
        yield stop
        stop = chunk.find(b"\n", stop) + 1


def _joined(parts: list[bytes], limit: int) -> bytes:
    """An item whole, or so much of it that it is seen to be too long: one byte more, and one that may be a newline."""
    line = b"".join(parts) if len(parts) > 1 else parts[0]
    return line if len(line) <= limit + 2 else line[: limit + 2]
