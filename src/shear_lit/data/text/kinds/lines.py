"""Files of one JSON object per line, plain or compressed."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO

from shear_lit.data.text.compression import opened
from shear_lit.data.text.documents import BOM, Found, found_in_line, parsed
from shear_lit.data.text.items import lines_of_block, lines_of_range, lines_of_stream
from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.kinds.blocks import blocks
from shear_lit.data.text.kinds.json_files import JsonArrays, check_is_no_object, holds_array

_LOOKED_AT = 100  # lines


class Lines:
    """A plain file: its pieces are ranges of bytes, each with the lines that begin in it."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        if holds_array(source):
            yield from JsonArrays().cut(source, reading)
            return
        check_is_no_object(source, reading)
        for start in range(0, source.bytes, reading.unit_bytes):
            end = min(source.bytes, start + reading.unit_bytes)
            yield Piece(
                domain=source.domain,
                name=source.name,
                kind=source.kind,
                bytes=end - start,
                start=start,
                end=end,
            )

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        with open(piece.name, "rb", buffering=0) as file:  # noqa: PTH123
            yield from self.documents_of(file, piece, reading)

    def documents_of(self, file: IO[bytes], piece: Piece, reading: Reading) -> Iterator[Found]:
        """The documents of a piece of ``file``, which can be sought in."""
        lines = lines_of_range(file, piece.start, piece.end, reading.max_document_bytes)
        yield from _found(lines, reading)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``."""
        _check(source, reading)


class CompressedLines:
    """A compressed file: its pieces are blocks of lines, as it can only be read from its beginning."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        if holds_array(source):
            yield from JsonArrays().cut(source, reading)
            return
        check_is_no_object(source, reading)
        with opened(source.name) as (file, content):
            lines = lines_of_stream(content, reading.max_document_bytes)
            yield from blocks(source, ((file.tell(), line) for line in lines), reading.unit_bytes)

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        return _found(lines_of_block(piece.block, reading.max_document_bytes), reading)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``."""
        _check(source, reading)


def _found(lines: Iterable[bytes], reading: Reading) -> Iterator[Found]:
    for number, line in enumerate(lines, start=1):
        yield found_in_line(number, line, reading.records.text_of_line, limit=reading.max_document_bytes)


def _check(source: Source, reading: Reading) -> None:
    fields: dict[str, None] = {}
    for line in islice(_first_lines(source, reading), _LOOKED_AT):
        if reading.records.text_of_line(line)[0]:
            return
        fields |= dict.fromkeys(_fields(line))
    if fields:
        reading.records.columns(source.name, fields)


def _first_lines(source: Source, reading: Reading) -> Iterator[bytes]:
    if not source.bytes:
        return
    with opened(source.name) as (_, content):
        if holds_array(source):
            yield from JsonArrays().records(source, content, reading)
        else:
            yield from lines_of_stream(content, reading.max_document_bytes)


def _fields(line: bytes) -> Iterable[str]:
    try:
        record = parsed(line.removeprefix(BOM).decode("utf-8"))
    except ValueError:
        return ()
    return record if isinstance(record, dict) else ()
