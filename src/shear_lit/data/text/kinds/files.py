"""Files that are one document each; small ones go together in a piece of work."""

from collections.abc import Iterator

from shear_lit.data.text.compression import opened
from shear_lit.data.text.documents import TOO_LARGE, Found, text_of_bytes
from shear_lit.data.text.kind import Piece, Reading, Source


class TextFiles:
    """Plain or compressed files that are a document each."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``; ``pieces`` puts small ones together."""
        yield Piece(
            domain=source.domain,
            name=source.name,
            kind=source.kind,
            bytes=source.bytes,
            names=(source.name,),
        )

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        limit = reading.max_document_bytes
        for number, name in enumerate(piece.names, start=1):
            with opened(name) as (_, file):
                content = file.read(limit + 1)
            yield Found(number, *(("", TOO_LARGE) if len(content) > limit else text_of_bytes(content)))

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``: it has no fields."""
