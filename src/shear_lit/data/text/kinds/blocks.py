"""Blocks of lines, cut by whoever reads an input from its beginning; and texts that are found that way, as lines."""

import json
from collections.abc import Iterable, Iterator

from shear_lit.data.text.documents import Found
from shear_lit.data.text.items import lines_of_block
from shear_lit.data.text.kind import Piece, Reading, Source


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
