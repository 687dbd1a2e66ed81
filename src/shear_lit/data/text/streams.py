"""Inputs that can only be read from their beginning, cut into blocks of lines: compressed files, hub data sets."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from shear_lit.data.errors import DataError
from shear_lit.data.text.reading import bounded_lines, unreadable
from shear_lit.data.text.sources import Kind, Source, open_hub

_ROWS = 256
_MOST_WINDOW_BYTES = 1 << 29  # what a frame asks for to be decompressed
_FED_BYTES = 1 << 12  # which may stand for thirty thousand times as much


class Block(NamedTuple):
    """Whole lines of a stream."""

    lines: bytes
    """The lines, one JSON object each."""
    bytes: int
    """How far they take one on in the input, in its own bytes."""


def blocks(source: Source, *, text_field: str, block_bytes: int, max_document_bytes: int) -> Iterator[Block]:
    """The blocks of a stream, each the shortest run of lines of at least ``block_bytes``; the last may be shorter.

    Raises:
        DataError: it is truncated or damaged, or has no such field.
    """
    lines = (
        _hub_lines(source, text_field)
        if source.kind is Kind.HUB
        else _compressed_lines(source, max_document_bytes)
    )
    block, size, before = list[bytes](), 0, 0
    for position, line in lines:
        block.append(line if line.endswith(b"\n") else line + b"\n")
        size += len(line)
        if size >= block_bytes:
            yield Block(b"".join(block), position - before)
            block, size, before = [], 0, position
    if block:
        yield Block(b"".join(block), source.bytes - before)


@contextmanager
def opened_lines(source: Source) -> Iterator[BinaryIO]:
    """The lines of a file that may be compressed.

    Raises:
        DataError: it is truncated or damaged.
    """
    with _opened(source) as (_, lines):
        yield lines


@contextmanager
def _opened(source: Source) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A file as it lies on disk, and its lines."""
    try:
        with Path(source.name).open("rb") as file:
            if not source.bytes and source.kind is not Kind.LINES:
                raise EOFError("it is empty, which no archive is")
            match source.kind:
                case Kind.GZIP:
                    with gzip.GzipFile(fileobj=file) as lines:
                        yield file, cast(BinaryIO, io.BufferedReader(lines, 1 << 18))
                case Kind.ZSTANDARD:
                    yield file, io.BufferedReader(_Zstandard(file), 1 << 18)
                case _:
                    yield file, file
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise unreadable(source.name, error) from error


def _compressed_lines(source: Source, limit: int) -> Iterator[tuple[int, bytes]]:
    with _opened(source) as (file, lines):
        for _, line in bounded_lines(lines, limit):
            yield file.tell(), line


def _hub_lines(source: Source, text_field: str) -> Iterator[tuple[int, bytes]]:
    loaded = open_hub(source)
    check_fields(source.name, text_field, loaded.column_names)
    rows: Iterable[dict[str, Any]] = loaded.select_columns([text_field]).iter(_ROWS)
    number = 0
    for batch in rows:
        for text in batch[text_field]:
            number += 1
            line = json.dumps(
                {text_field: text}, ensure_ascii=False
            )  # escapes would count as bytes of the document
            yield source.bytes * number // len(loaded), line.encode() + b"\n"


def check_fields(name: str, text_field: str, fields: Iterable[str]) -> None:
    """Refuse a text field that an input does not have.

    Raises:
        DataError: ``text_field`` is none of ``fields``.
    """
    if text_field not in (found := list(fields)):
        raise DataError(
            f"{text_field!r}: {name!r} has no such field; it has {', '.join(map(repr, found)) or 'none'}. "
            "Use the one that holds the documents.",
            key="text_field",
        )


class _Zstandard(io.RawIOBase):
    """Decompresses frame after frame; unlike the package's own reader, it tells a truncated file from a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard  # wanted for this kind of input alone

        self._file, self._error = file, zstandard.ZstdError
        self._frames = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
        self._frame: Any = None
        self._pending = memoryview(b"")  # of which a part is taken without copying the rest
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and self._more():
            pass
        taken, self._pending = self._pending[: len(buffer)], self._pending[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _more(self) -> bool:
        """Decompress a little more; whether there was any."""
        content = self._left or self._file.read(_FED_BYTES)
        self._left = b""
        if not content:
            if self._frame is not None:
                raise EOFError("it ends inside a frame")
            return False
        self._frame = self._frame or self._frames.decompressobj()
        try:
            self._pending = memoryview(self._frame.decompress(content))
        except self._error as error:
            raise EOFError(str(error)) from error
        if self._frame.eof:
            self._left, self._frame = self._frame.unused_data, None
        return True
