"""The result of one piece of work on disk: its tokens, and the hash and length of every document.

A spool file is there wholly or not at all; that it is there says that the piece is done. One line of JSON is followed
by the hashes, the lengths and the tokens. Worker processes import this module.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shear_lit.disk.records import parse_values, record_of

_LINE_BYTES = 1 << 16
HASHES, LENGTHS = np.dtype("<u8"), np.dtype("<u4")


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


def write_spool(
    path: Path, record: SpoolRecord, hashes: bytes, lengths: list[int], tokens: Iterable[NDArray[np.generic]]
) -> None:
    """Write a spool file, wholly or not at all; ``hashes`` are those of ``document_hash``, one after the other."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(json.dumps(asdict(record)).encode() + b"\n")
            file.write(np.frombuffer(hashes, dtype=">u8").astype(HASHES).tobytes())
            file.write(np.asarray(lengths, dtype=LENGTHS).tobytes())
            for part in tokens:
                file.write(part.tobytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        if size != self._tokens_start + self.record.tokens * self._type.itemsize:
            raise ValueError(f"{path} has {size} bytes")

    def documents(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Hashes, UInt64[documents, 2], the more significant half first, and lengths in tokens, UInt32[documents]."""
        count = self.record.documents
        hashes = np.fromfile(self.path, HASHES, 2 * count, offset=self._start).reshape(count, 2)
        return hashes, np.fromfile(self.path, LENGTHS, count, offset=self._start + 16 * count)

    def tokens(self) -> NDArray[np.unsignedinteger]:
        """The tokens of all documents, one after the other."""
        return np.fromfile(self.path, self._type, self.record.tokens, offset=self._tokens_start)

    @property
    def _tokens_start(self) -> int:
        return self._start + (2 * HASHES.itemsize + LENGTHS.itemsize) * self.record.documents


def finished(path: Path) -> Spool | None:
    """The spool file at ``path``, or ``None`` if that piece of work is still to be done."""
    try:
        return Spool(path)
    except (OSError, ValueError):
        return None
