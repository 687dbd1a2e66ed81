"""Blocks of lines, cut by whoever reads an input from its beginning; and texts that are found that way, as lines."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from shear_lit.data.text.documents import TOO_LARGE, Found, text_of_bytes
from shear_lit.data.text.items import lines_of_block
from shear_lit.data.text.kind import Piece, Reading, Source

_TEXT = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def blocks(source: Source, lines: Iterable[tuple[int, bytes]], unit_bytes: int) -> Iterator[Piece]:
    """Pieces of whole lines, each the shortest run of at least ``unit_bytes``; the last may be shorter.

    Args:
        source: The input.
        lines: How far each takes one in the input, in its own bytes, and the line.
        unit_bytes: Bytes of a piece.
    """
    block, size, before, position = list[bytes](), 0, 0, 0
    for reached, line in lines:
        if size >= unit_bytes:  # only now is it known that this one is not the last, which has what is left
            yield _piece(source, block, position - before)
            block, size, before = [], 0, position
        block.append(line if line.endswith(b"\n") else line + b"\n")
        size, position = size + len(line), reached
    if block:
        yield _piece(source, block, source.bytes - before)


def _piece(source: Source, block: list[bytes], size: int) -> Piece:
    return Piece(
        domain=source.domain, name=source.name, kind=source.kind, bytes=max(0, size), block=b"".join(block)
    )


class Texts:
    """What is to be read from a block of texts: a line of JSON each, which is a text, or a list with a reason."""

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        # A text takes more as JSON: at most six bytes for each of its own, and two quotes.
        limit = 6 * reading.max_document_bytes + 1024
        for number, line in enumerate(lines_of_block(piece.block, limit), start=1):
            content = json.loads(line)
            yield (Found(number, content, "") if isinstance(content, str) else Found(number, "", content[0]))


def line_of(text: str, reason: str) -> bytes:
    """A text that can be used, or the reason why there is none, as a line of a block."""
    return json.dumps([reason] if reason else text, ensure_ascii=False).encode() + b"\n"


def text_of_cell(content: bytes | None, no_text: str, limit: int) -> tuple[str, str]:
    """The text of a cell of a table, or an empty one and the reason why it has none; ``no_text`` where it is null."""
    if content is None:
        return "", no_text
    return ("", TOO_LARGE) if len(content) > limit else text_of_bytes(content)


def is_text(found: Any) -> bool:
    """Whether a column of this type may hold text: bytes may, as some programs write text."""
    name = str(found).removeprefix("dictionary<values=").partition(",")[0]
    return name in _TEXT


def binary(column: Any) -> Any:
    """A column of text as bytes, which nobody has checked to be UTF-8."""
    import pyarrow as arrow  # there is a column: it is imported already

    if isinstance(column, arrow.DictionaryArray):
        column = column.dictionary_decode()
    return column.cast(arrow.large_binary())
