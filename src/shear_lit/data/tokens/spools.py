"""Spool files: the tokens of one piece of work, and the hash and length of each of its documents.

A spool file is there wholly or not at all. One line of JSON is followed by the hashes, the lengths, the tokens, and
where documents are conversations, by a byte for each token, whose bits are the ``LEARNED``, ``BEGINS`` and ``ANSWERS``
below.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.contamination import Contaminated
from shear_lit.disk.records import parse_values, record_of

HASHES, LENGTHS = np.dtype("<u8"), np.dtype("<u4")
LEARNED, BEGINS, ANSWERS = 1, 2, 4
"""What the byte of a token says: that it is to be predicted; that a part of its document begins with it, which is
packed apart from the others; that an answer of the assistant begins with it."""

_LINE_BYTES = 1 << 16
Tokens = NDArray[np.unsignedinteger]
Flags = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SpoolRecord:
    """What a spool file holds."""

    documents: int
    """Documents that can be used."""
    tokens: int
    """Their tokens."""
    numbers: int
    """Lines, rows or files that the piece of work has, usable or not."""
    rejected: dict[str, int]
    """Documents that cannot be used, by reason."""
    first: list[tuple[int, str]]
    """Number and reason of the first of these."""
    token_type: str
    """``uint16`` or ``uint32``."""
    flagged: bool = False
    """Whether each token has a byte that says what it is."""
    contaminated: Contaminated | None = None
    """What was cut out as text of evaluation tasks, with numbers for names and places; none if nothing was."""


class Spool:
    """Reads a spool file."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            OSError, ValueError: it is not there, or no whole spool file.
        """
        self.path = path
        with path.open("rb") as file:
            line = file.readline(_LINE_BYTES)
            self.record = record_of(SpoolRecord, parse_values(line))
            self._start, size = len(line), os.fstat(file.fileno()).st_size
        if self.record.token_type not in ("uint16", "uint32"):
            raise ValueError(f"{path} has tokens of {self.record.token_type!r}")
        self._type = np.dtype(self.record.token_type).newbyteorder("<")
        if size != self._flags_start + self.record.tokens * self.record.flagged:
            raise ValueError(f"{path} has {size} bytes")

    @property
    def spools(self) -> tuple[tuple[str, int], ...]:
        """Its name and how many documents it holds, as ``Held`` of ``sections`` gives those of several."""
        return ((self.path.name, self.record.documents),)

    def hashes(self) -> NDArray[np.uint64]:
        """Hashes of the documents, UInt64[documents, 2], the more significant half first."""
        count = self.record.documents
        return np.fromfile(self.path, HASHES, 2 * count, offset=self._start).reshape(count, 2)

    def lengths(self) -> NDArray[np.int64]:
        """Lengths of the documents in tokens, Int64[documents]."""
        count = self.record.documents
        return np.fromfile(self.path, LENGTHS, count, offset=self._start + 16 * count).astype(np.int64)

    def tokens(self) -> Tokens:
        """The tokens of all documents, one after the other, mapped into memory."""
        if not self.record.tokens:
            return np.empty(0, self._type)
        return np.memmap(self.path, self._type, "r", offset=self._tokens_start, shape=(self.record.tokens,))

    def flags(self) -> Flags:
        """What each of the tokens is, UInt8[tokens], mapped into memory."""
        if not self.record.tokens:
            return np.empty(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", offset=self._flags_start, shape=(self.record.tokens,))

    @property
    def _tokens_start(self) -> int:
        return self._start + (2 * HASHES.itemsize + LENGTHS.itemsize) * self.record.documents

    @property
    def _flags_start(self) -> int:
        return self._tokens_start + self.record.tokens * self._type.itemsize


def record_of_spool(path: Path) -> SpoolRecord | None:
    """What a spool file holds, or ``None`` if it is not there or not whole."""
    try:
        return Spool(path).record
    except (OSError, ValueError):
        return None


def write_spool(
    path: Path, record: SpoolRecord, hashes: bytes, tokens: Sequence[Tokens], flags: Sequence[Flags] = ()
) -> None:
    """Write a spool file, wholly or not at all; ``hashes`` have their most significant byte first."""
    head = (
        json.dumps(asdict(record)).encode() + b"\n",
        np.frombuffer(hashes, dtype=">u8").astype(HASHES).data,
        np.array([len(part) for part in tokens], dtype=LENGTHS).data,
    )
    write_part(path, (*head, *(part.data for part in tokens), *(part.data for part in flags)))
