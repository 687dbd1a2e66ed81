"""What an input is, what a piece of work is, and what every kind of input does: cut, and read what was cut."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shear_lit.data.text.documents import Found
from shear_lit.data.text.records import Records

PIPELINE = "datatrove"
"""The kind of an input whose documents a pipeline of datatrove hands over, so that nothing is read here."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input: a file, a directory of tokens, or a data set of a hub."""

    domain: str
    """The domain it belongs to."""
    name: str
    """Its path, or the name of the data set."""
    kind: str
    """How the documents lie in it: a key of ``pieces.KINDS``."""
    bytes: int
    """Its size on disk."""
    version: str = ""
    """What S3 calls the content that it has."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece of work: a part of an input that any process can read alone."""

    domain: str
    """The domain of its documents."""
    name: str
    """The input that it belongs to."""
    kind: str
    """Who reads it: a key of ``pieces.KINDS``."""
    bytes: int
    """How much of the input it is, on disk."""
    start: int = 0
    """Where it begins: a byte, a row group, a token or a document, as its kind counts."""
    end: int = 0
    """Where it ends, likewise."""
    names: tuple[str, ...] = ()
    """Its files, where several go together."""
    version: str = ""
    """The version of its input, where that has one."""
    whole: int = 0
    """The size of its input, where ranges of it are fetched."""
    block: bytes = b""
    """Its content, where another process could not find it without reading all that comes before."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that it holds something of; of several, each is one document."""
        return self.names or (self.name,)

    def place(self, number: int, before: int) -> str:
        """Where document ``number`` of this piece lies; ``before`` lines or rows of its input come before the piece."""
        if self.names:
            return _on_one_line(self.names[number - 1])
        return f"{_on_one_line(self.name)}:{before + number}"


class Reading(Protocol):
    """How inputs are read."""

    @property
    def records(self) -> Records:
        """What the document of a record is."""

    @property
    def unit_bytes(self) -> int:
        """Bytes of a piece of work, about."""

    @property
    def max_document_bytes(self) -> int:
        """A longer document is rejected, and not held in memory."""

    @property
    def end_of_text(self) -> int | None:
        """The token that ends each document of an array of tokens."""

    @property
    def scratch(self) -> Path:
        """Directory for copies of inputs that are no files."""


class Kind(Protocol):
    """One kind of input: how it is cut into pieces, and how a piece is read."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """The pieces of ``source`` in order, which depend on it and on ``reading`` alone.

        Raises:
            DataError: it cannot be read.
        """

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """The documents of a piece in order, with what cannot be used; numbered from 1 without gaps.

        Raises:
            DataError: it cannot be read.
        """

    def check(self, source: Source, reading: Reading) -> None:
        """Look at the beginning of ``source``.

        Raises:
            DataError: it shows already that its records have no documents, or that it has no records.
        """


def _on_one_line(name: str) -> str:
    """A file name in a message: it may hold newlines, or bytes that are no text."""
    return name if name.isprintable() else repr(name)[1:-1]
