"""Values separated by commas or tabs, with a line of names: read from the beginning, as a value may hold newlines."""

import csv
import re
from collections.abc import Iterator
from itertools import chain
from typing import IO

from shear_lit.data.errors import DataError
from shear_lit.data.text.compression import opened
from shear_lit.data.text.documents import BLANK, BOM, TOO_LARGE, UTF_16
from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.kinds.blocks import Texts, blocks, line_of
from shear_lit.data.text.records import chosen

OPEN_QUOTE = "a quote that is not closed"
"""The reason for a row that ends with its file, inside a quoted value."""

_PART, _NEWLINE, _QUOTE = 1 << 16, b"\r\n", re.compile(b'"')
_LONE_RETURN = re.compile(rb"(?<=\r)(?!\n)")  # a line break of old programs, if it is not inside quotes


class Delimited(Texts):
    """A file of rows, plain or compressed; its pieces are blocks of the texts in it."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        if not source.bytes:
            return
        with opened(source.name) as (file, content):
            rows = _Rows(content, self._delimiter, reading.max_document_bytes)
            names = _names(source, rows)
            columns = reading.records.columns(source.name, names)
            lines = (
                (file.tell(), line_of(*_text(row, names, columns, reason, reading)))
                for row, reason in rows.read()
            )
            yield from blocks(source, lines, reading.unit_bytes)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``."""
        if source.bytes:
            with opened(source.name) as (_, content):
                names = _names(source, _Rows(content, self._delimiter, reading.max_document_bytes))
                reading.records.columns(source.name, names)


def _names(source: Source, rows: "_Rows") -> list[str]:
    """The names of the columns, which are the first line."""
    names, reason = next(rows.read(), ([], ""))
    if any("\0" in name for name in names):
        reason = UTF_16
    if reason:
        raise DataError(
            f"{source.name!r} has no line of column names: its first line is {reason}. Convert it.",
            key=f"domains.{source.domain}",
        )
    return names


def _text(
    row: list[str], names: list[str], columns: list[str], reason: str, reading: Reading
) -> tuple[str, str]:
    if reason:
        return "", reason
    return reading.records.text_of_row(chosen(row, names, columns)) if row else ("", BLANK)


class _Rows:
    """The rows of a file; of one that is too large, or does not end, the rest is never taken for others."""

    def __init__(self, file: IO[bytes], delimiter: str, limit: int) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), limit))  # a row is held to the limit as a whole
        self._parts, self._delimiter, self._limit = _parts(file), delimiter, limit
        self._row_bytes = 0  # of the row that is being read
        self._is_open = False
        self._reader = csv.reader(self._lines(), delimiter=delimiter)

    def read(self) -> Iterator[tuple[list[str], str]]:
        """Each row, or an empty one and what is wrong with it."""
        while True:
            self._row_bytes = 0
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except _TooLargeError as error:
                _skip_row(error.line, self._parts, self._delimiter.encode(), is_inside=error.is_inside)
                self._reader = csv.reader(self._lines(), delimiter=self._delimiter)
                yield [], TOO_LARGE
            except csv.Error as error:
                yield [], f"malformed row ({error})"
            else:
                yield ([], OPEN_QUOTE) if self._is_open else (row, "")

    def _lines(self) -> Iterator[str]:
        """Lines for the reader, which asks for a second one of a row only where the first one ends inside quotes."""
        while line := self._line():
            is_inside, self._row_bytes = self._row_bytes > 0, self._row_bytes + len(line)
            if self._row_bytes > self._limit + len(_NEWLINE):
                raise _TooLargeError(line, is_inside=is_inside)
            yield line.decode("utf-8", "surrogateescape")
        self._is_open = self._row_bytes > 0

    def _line(self) -> bytes:
        """The next line, or so much of it that it is seen to be too long."""
        line = bytearray()
        for part in self._parts:
            line += part
            if part.endswith((b"\n", b"\r")) or self._row_bytes + len(line) > self._limit + len(_NEWLINE):
                break
        return bytes(line)


class _TooLargeError(Exception):
    """A row has more bytes than it may."""

    def __init__(self, line: bytes, *, is_inside: bool) -> None:
        super().__init__()
        self.line, self.is_inside = line, is_inside


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    """Lines with what ends them, a long one in parts of which the last has it."""
    is_first = True
    while part := file.readline(_PART):
        while part.endswith(b"\r") and (more := file.read(1)):
            part += more
        part, is_first = part.removeprefix(BOM) if is_first else part, False
        yield from filter(None, _LONE_RETURN.split(part)) if b"\r" in part else (part,)


def _skip_row(line: bytes, parts: Iterator[bytes], delimiter: bytes, *, is_inside: bool) -> None:
    """Read on to the end of a row of which ``line`` is the last that was read, and begins inside quotes or not."""
    ends_plain = re.compile(b"[\r\n" + re.escape(delimiter) + b"]")
    state = "quoted" if is_inside else "start"
    for part in chain((line,), parts):
        at = 0
        while at < len(part):
            if state in ("quoted", "plain"):  # nothing counts but what ends this
                match = (_QUOTE if state == "quoted" else ends_plain).search(part, at)
                at = match.start() if match else len(part)
                if match is None:
                    break
            sign, at = part[at : at + 1], at + 1
            if sign == b'"':
                # A quote counts at the beginning of a value, and inside quotes, where two of them stand for one.
                state = {"start": "quoted", "quoted": "closed", "closed": "quoted"}.get(state, state)
            elif sign in b"\r\n":
                return
            else:
                state = "start" if sign == delimiter else "plain"
