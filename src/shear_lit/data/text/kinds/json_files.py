"""Files named ``.json`` that are one value: an array of records is read as its lines are, an object is refused."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from shear_lit.data.errors import DataError
from shear_lit.data.text.compression import COMPRESSIONS, opened
from shear_lit.data.text.documents import BLANK, BOM, MALFORMED, Found, found_in_line, parsed
from shear_lit.data.text.items import items_of_stream, lines_of_block, lines_of_stream
from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.kinds.blocks import blocks
from shear_lit.data.text.refusals import unreadable

_SPACE = b" \t\r\n"
_LOOKED_AT = 1 << 16
_MOST_SPACE = 1 << 12  # around an element: with more it counts as too large
_OUTSIDE, _INSIDE = re.compile(rb'["\[\]{},]'), re.compile(rb'["\\]')
_NO_NEWLINES = bytes.maketrans(b"\r\n", b"\t\t")


def is_json_file(name: str) -> bool:
    """Whether ``name`` ends with ``.json``, or with that and a compression."""
    lower = name.lower()
    ends = (end for end in COMPRESSIONS if lower.endswith(end))
    return lower.removesuffix(next(ends, "")).endswith(".json")


def holds_array(source: Source) -> bool:
    """Whether a file is one array of objects.

    Raises:
        DataError: it cannot be read.
    """
    if not is_json_file(source.name) or not source.bytes:
        return False
    with opened(source.name) as (_, content):
        start = content.read(_LOOKED_AT).removeprefix(BOM).lstrip(_SPACE)
    return start.startswith(b"[") and start[1:].lstrip(_SPACE)[:1] in (b"{", b"]")


def check_is_no_object(source: Source, reading: Reading) -> None:
    """Refuse a file that is one object on many lines.

    Raises:
        DataError: it is one, or cannot be read.
    """
    if not is_json_file(source.name) or not source.bytes:
        return
    with opened(source.name) as (_, content):
        line = next(lines_of_stream(content, reading.max_document_bytes), b"")
    first = line.removeprefix(BOM).rstrip(_SPACE)
    if first.startswith(b"{") and first.endswith((b"{", b"[", b",")) and not _is_json(first):
        raise DataError(
            f"{source.name!r} is one JSON object on many lines: an object on each line, or an array of objects, is "
            "expected. Convert it, for instance with `jq -c`, or take it out of the list.",
            key=f"domains.{source.domain}",
        )


class JsonArrays:
    """A file that is one array of records: its pieces are blocks of them, a line each."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        with opened(source.name) as (file, content):
            records = self.records(source, content, reading)
            lines = ((file.tell(), line) for line in records)
            yield from blocks(replace(source, kind="array"), lines, reading.unit_bytes)

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        limit = reading.max_document_bytes
        for number, line in enumerate(lines_of_block(piece.block, limit), start=1):
            found = found_in_line(number, line, reading.records.text_of_line, limit=limit)
            yield found._replace(reason=MALFORMED) if found.reason == BLANK else found

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``: the file of lines that it may be is looked at instead."""

    def records(self, source: Source, content: IO[bytes], reading: Reading) -> Iterator[bytes]:
        """The records of the array, each on a line.

        Raises:
            DataError: it ends inside the array, or goes on after it.
        """
        scanner, is_over = _Scanner(), False
        found = items_of_stream(content, scanner.ends, limit=reading.max_document_bytes + _MOST_SPACE)
        next(found, None)  # what comes before the first record: a bracket
        for number, parts in enumerate(found):
            element = b"".join(parts)
            if is_over:
                if element.strip(_SPACE):
                    raise unreadable(source.name, ValueError("it goes on after its array"))
                break
            is_over = scanner.closed
            if number or not is_over or element[:-1].strip(_SPACE):  # unless the array is empty
                yield _on_one_line(element, reading.max_document_bytes)
        if not scanner.closed:
            raise unreadable(source.name, EOFError("it ends inside its array"))


class _Scanner:
    """Finds where the elements of an array end, however its text is cut into chunks."""

    def __init__(self) -> None:
        self.closed = False
        self._depth, self._is_inside, self._is_escaped = 0, False, False

    def ends(self, chunk: bytes) -> Iterator[int]:
        """The places behind its first bracket, its commas and its last bracket."""
        at = 0
        while at < len(chunk) and not self.closed:
            if self._is_escaped:
                self._is_escaped, at = False, at + 1
                continue
            match = (_INSIDE if self._is_inside else _OUTSIDE).search(chunk, at)
            if match is None:
                return
            at = match.end()
            if self._is_end(match[0]):
                yield at

    def _is_end(self, sign: bytes) -> bool:
        if self._is_inside:
            self._is_inside, self._is_escaped = sign != b'"', sign == b"\\"
            return False
        if sign == b'"':
            self._is_inside = True
        elif sign in b"[{":
            self._depth += 1
            return self._depth == 1
        elif sign in b"]}":
            self._depth -= 1
            self.closed = self._depth == 0
            return self.closed
        return sign == b"," and self._depth == 1


def _on_one_line(element: bytes, limit: int) -> bytes:
    """An element without the comma or bracket that ends it; JSON has line breaks only where it may have tabs."""
    if len(element) > limit + _MOST_SPACE:  # of which the end may be cut off
        return element[: limit + 1].translate(_NO_NEWLINES) + b"\n"
    return element[:-1].strip(_SPACE).translate(_NO_NEWLINES)[: limit + 1] + b"\n"


def _is_json(line: bytes) -> bool:
    try:
        parsed(line.decode("utf-8"))
    except ValueError:
        return False
    return True
