"""Megatron-LM's tokens: ``name.bin``, and ``name.idx`` beside it, which says where each sequence and document is."""

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from shear_lit.data.text.documents import EMPTY, TOO_LARGE, Found
from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.kinds.token_runs import found_tokens, read_tokens
from shear_lit.data.text.refusals import unreadable

_MAGIC = b"MMIDIDX\x00\x00"
# Magic, version, type of a token, sequences, entries of the list of documents.
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # the other ones are no whole numbers
_ENTRIES, _MOST_LENGTHS = 1 << 16, 1 << 20  # of the index, read at once
_NOT_ALL = "its index names documents that are not made of all of its sequences in order"


class Megatron:
    """An indexed file of tokens: its pieces are ranges of documents."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        with _opened(source.name) as index:
            start, size = 0, 0
            for number, tokens in enumerate(index.lengths(), start=1):
                size += tokens * index.token_type.itemsize
                if size >= reading.unit_bytes or number == index.documents:
                    yield _piece(source, start, number, index.documents)
                    start, size = number, 0

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        with _opened(piece.name) as index:
            for number, sequences in enumerate(index.sequences(piece.start, piece.end), start=1):
                parts = index.tokens(sequences, reading.max_document_bytes + index.token_type.itemsize)
                if parts is None:
                    yield Found(number, "", TOO_LARGE)
                else:
                    yield found_tokens(number, parts, reading) if parts else Found(number, "", EMPTY)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``."""
        with _opened(source.name):
            pass


@dataclass(frozen=True, kw_only=True)
class _Index:
    """An open index: nothing of it is trusted before it is held to the size of the file of tokens."""

    file: IO[bytes]
    content: IO[bytes]
    token_type: Any
    count: int
    """Sequences."""
    documents: int
    content_bytes: int

    def lengths(self) -> Iterator[int]:
        """The tokens of each document."""
        for first in range(0, self.documents, _ENTRIES):
            bounds = self._bounds(first, min(self.documents, first + _ENTRIES))
            if bounds[-1] - bounds[0] <= _MOST_LENGTHS:
                before = [0, *self._lengths(bounds[0], bounds[-1]).cumsum(dtype="i8").tolist()]
                yield from (
                    before[end - bounds[0]] - before[start - bounds[0]] for start, end in pairwise(bounds)
                )
            else:
                yield from (self._length(start, end) for start, end in pairwise(bounds))

    def _length(self, start: int, end: int) -> int:
        parts = (self._lengths(at, min(end, at + _ENTRIES)) for at in range(start, end, _ENTRIES))
        return sum(int(lengths.sum(dtype="i8")) for lengths in parts)

    def sequences(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The range of sequences of each of the documents from ``start`` to ``end``."""
        for first in range(start, end, _ENTRIES):
            bounds = self._bounds(first, min(end, first + _ENTRIES))
            yield from pairwise(bounds)

    def tokens(self, sequences: tuple[int, int], limit: int) -> list[Any] | None:
        """The tokens of a document, sequence by sequence; None if they have more than ``limit`` bytes."""
        parts, size = [], 0
        for first in range(*sequences, _ENTRIES):
            last = min(sequences[1], first + _ENTRIES)
            lengths, places = self._lengths(first, last), self._places(first, last)
            for place, length in zip(places.tolist(), lengths.tolist(), strict=True):
                size += length * self.token_type.itemsize
                if size > limit:
                    return None
                if not 0 <= place <= self.content_bytes - length * self.token_type.itemsize:
                    raise ValueError(f"its index says that {length:,} tokens begin at byte {place:,}")
                parts.append(read_tokens(self.content, place, length, self.token_type))
        return parts

    def check_documents(self) -> None:
        """Refuse an index whose documents leave sequences out at its beginning or its end."""
        if self._bounds(0, 0) != [0] or self._bounds(self.documents, self.documents) != [self.count]:
            raise ValueError(_NOT_ALL)

    def _bounds(self, first: int, last: int) -> list[int]:
        """The sequence with which each of these documents begins, and that behind the last one."""
        found: list[int] = self._read(12 * self.count + 8 * first, last - first + 1, "<i8").tolist()
        if found[0] < 0 or any(a > b for a, b in pairwise([*found, self.count])):
            raise ValueError(_NOT_ALL)
        return found

    def _lengths(self, first: int, last: int) -> Any:
        found = self._read(4 * first, last - first, "<i4")
        if len(found) and found.min() < 0:
            raise ValueError("its index names sequences of less than no token")
        return found

    def _places(self, first: int, last: int) -> Any:
        return self._read(4 * self.count + 8 * first, last - first, "<i8")

    def _read(self, offset: int, count: int, kind: str) -> Any:
        import numpy as np  # only where tokens are read

        return read_tokens(self.file, _HEADER.size + offset, count, np.dtype(kind))


def index_of(name: str) -> Path:
    """The index that belongs to a file of tokens."""
    return Path(name).with_suffix(".idx")


def _piece(source: Source, start: int, end: int, count: int) -> Piece:
    size = source.bytes * end // count - source.bytes * start // count
    return Piece(domain=source.domain, name=source.name, kind=source.kind, bytes=size, start=start, end=end)


@contextmanager
def _opened(name: str) -> Iterator[_Index]:
    try:
        with ExitStack() as stack:
            file = stack.enter_context(index_of(name).open("rb"))
            yield _checked(file, stack.enter_context(Path(name).open("rb")))
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise unreadable(name, error) from error


def _checked(file: IO[bytes], content: IO[bytes]) -> _Index:
    import numpy as np  # only where tokens are read

    size = os.fstat(file.fileno()).st_size
    magic, version, code, count, entries = _HEADER.unpack(file.read(_HEADER.size))
    if magic != _MAGIC or version != 1:
        raise ValueError("its index is none of Megatron-LM's version 1")
    if code not in _TYPES:
        raise ValueError(f"its index says that its tokens have type {code}, which is none of whole numbers")
    if entries < 1 or _HEADER.size + 12 * count + 8 * entries > size:
        raise ValueError(f"its index has {size:,} bytes, which do not hold {count:,} sequences")
    index = _Index(
        file=file,
        content=content,
        token_type=np.dtype(_TYPES[code]),
        count=count,
        documents=entries - 1,
        content_bytes=os.fstat(content.fileno()).st_size,
    )
    index.check_documents()
    return index
