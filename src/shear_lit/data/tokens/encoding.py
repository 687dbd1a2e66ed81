"""Tokenising one piece of work into a spool file: its tokens, and the hash and length of every document.

A spool file is there wholly or not at all, and its name is a hash of all that decides what is in it: of the documents
themselves, and of what makes their tokens. That it is there says that they are tokenised, whatever file they came from.
One line of JSON is followed by the hashes, the lengths and the tokens. Worker processes import this module: it needs
the tokenizers library and numpy, and neither torch nor transformers.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.text.documents import BLANK, UNCUTTABLE, Found, document_hash
from shear_lit.data.text.pieces import Piece, Reading, documents
from shear_lit.data.tokens.encoder import Encoder
from shear_lit.disk.records import parse_values, record_of

REPORTED = 5
"""How many rejected documents of a piece of work are named."""
HASHES, LENGTHS = np.dtype("<u8"), np.dtype("<u4")

_LINE_BYTES = 1 << 16
_CONTENTS = 1 << 256
NOTHING = "0" * 64
"""What an input without a document holds."""
Tokens = NDArray[np.unsignedinteger]


class Encoding(Reading, Protocol):
    """What decides the tokens of a document, and where they are written."""

    @property
    def spools(self) -> Path:
        """Directory of the spool files."""

    @property
    def tokenizer_file(self) -> Path:
        """File with the tokenizer."""

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens put before each document."""

    @property
    def after(self) -> tuple[int, ...]:
        """Tokens put after each document."""

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger]":
        """How a token is stored."""

    @property
    def tokens_key(self) -> str:
        """Hash of all that decides the tokens of a document, besides its text."""

    @property
    def split_special_tokens(self) -> bool:
        """Whether text that looks like a special token is text."""

    @property
    def vocabulary(self) -> int:
        """The largest token id that the tokenizer gives, and one."""


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


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A piece of work that is done."""

    spool: str
    """Name of its spool file; pieces with the same documents have the same."""
    contents: tuple[int, ...]
    """What it holds of each input; see ``contents_of``."""
    record: SpoolRecord
    """What the file holds."""
    again: bool = False
    """Whether it was there already."""


def encode(job: Encoding, piece: Piece) -> Encoded:
    """Tokenise a piece of work, unless that has been done.

    Raises:
        DataError: an input cannot be read.
        OSError: the spool file cannot be written.
    """
    found = list(documents(piece, job))
    digests = [_digest(document) for document in found]
    name = hashlib.sha256(b"".join([job.tokens_key.encode(), *digests])).hexdigest()[:32]
    path = job.spools / name
    there = record_of_spool(path)
    record = there or _write(path, job, found)
    contents = _contents(piece, zip(found, digests, strict=True))
    return Encoded(spool=name, contents=contents, record=record, again=there is not None)


def contents_of(job: Reading, piece: Piece) -> tuple[int, ...]:
    """The sum of the SHA-256 of all documents, modulo 2^256, for each input that a piece of work belongs to.

    The sum over the pieces of an input does not depend on how it was cut, compressed or laid out.
    """
    return _contents(piece, ((document, _digest(document)) for document in documents(piece, job)))


def joined(pieces: Iterable[tuple[Piece, tuple[int, ...]]]) -> dict[str, str]:
    """What each input holds, as 64 hexadecimal digits, from its pieces and their ``contents_of``."""
    total: dict[str, int] = {}
    for piece, contents in pieces:
        for name, content in zip(piece.inputs, contents, strict=True):
            total[name] = total.get(name, 0) + content
    return {name: f"{content % _CONTENTS:064x}" for name, content in total.items()}


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
        return np.memmap(self.path, self._type, "r", offset=self._tokens_start)

    @property
    def _tokens_start(self) -> int:
        return self._start + (2 * HASHES.itemsize + LENGTHS.itemsize) * self.record.documents


def record_of_spool(path: Path) -> SpoolRecord | None:
    """What a spool file holds, or ``None`` if it is not there or not whole."""
    try:
        return Spool(path).record
    except (OSError, ValueError):
        return None


def _digest(document: Found) -> bytes:
    """SHA-256 of a document, or of why it cannot be used."""
    if document.tokens is not None:
        return hashlib.sha256(b"tokens\n" + np.asarray(document.tokens, dtype="<u4").tobytes()).digest()
    digest = hashlib.sha256(f"{document.reason}\n".encode())
    digest.update(document.text.encode())
    return digest.digest()


def _contents(piece: Piece, found: Iterable[tuple[Found, bytes]]) -> tuple[int, ...]:
    total = [0] * len(piece.inputs)
    for document, digest in found:
        if document.reason != BLANK:
            total[document.number - 1 if len(total) > 1 else 0] += int.from_bytes(digest)
    return tuple(total)


def _write(path: Path, job: Encoding, found: list[Found]) -> SpoolRecord:
    tally = _Tally(found[-1].number if found else 0)
    usable = [document for document in found if tally.is_usable(document)]
    before, after = (np.array(ids, dtype=job.dtype) for ids in (job.before, job.after))
    hashes, parts = bytearray(), list[Tokens]()
    for document, ids in zip(usable, _tokens(job, usable), strict=True):
        if ids is None:
            tally.reject(document.number, UNCUTTABLE)
        elif document.tokens is not None and int(ids.max()) >= job.vocabulary:
            tally.reject(document.number, f"token ids beyond the tokenizer's {job.vocabulary:,}")
        else:
            hashes += document_hash(document.text) if document.tokens is None else _hash_of_tokens(ids)
            parts.append(np.concatenate([before, ids, after], dtype=job.dtype, casting="unsafe"))
    record = SpoolRecord(
        documents=len(parts),
        tokens=sum(map(len, parts)),
        numbers=tally.numbers,
        rejected=dict(sorted(tally.rejected.items())),
        first=sorted(tally.first)[:REPORTED],
        token_type=job.dtype.name,
    )
    _write_spool(path, record, bytes(hashes), parts)
    return record


def _tokens(job: Encoding, usable: list[Found]) -> Iterator[Tokens | None]:
    """The token ids of each document, whether it is text or came as such."""
    texts = (document.text for document in usable if document.tokens is None)
    encoded = _encoder(str(job.tokenizer_file), job.split_special_tokens, job.tokens_key).encode(texts)
    for document in usable:
        yield next(encoded) if document.tokens is None else np.asarray(document.tokens)


def _hash_of_tokens(ids: Tokens) -> bytes:
    return hashlib.sha256(ids.astype("<u4").tobytes()).digest()[:16]


@lru_cache(maxsize=2)
def _encoder(file: str, split_special_tokens: bool, key: str) -> Encoder:  # noqa: FBT001 (what it is known by)
    return Encoder(file, split_special_tokens=split_special_tokens)


class _Tally:
    """What cannot be used is counted and its place noted, never passed over in silence."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers
        self.rejected: Counter[str] = Counter()
        self.first: list[tuple[int, str]] = []

    def is_usable(self, document: Found) -> bool:
        if document.reason and document.reason != BLANK:
            self.reject(document.number, document.reason)
        return not document.reason

    def reject(self, number: int, reason: str) -> None:
        self.rejected[reason] += 1
        self.first.append((number, reason))


def _write_spool(path: Path, record: SpoolRecord, hashes: bytes, tokens: list[Tokens]) -> None:
    """Write a spool file, wholly or not at all."""
    head = (
        json.dumps(asdict(record)).encode() + b"\n",
        np.frombuffer(hashes, dtype=">u8").astype(HASHES).data,
        np.array([len(part) for part in tokens], dtype=LENGTHS).data,
    )
    write_part(path, (*head, *(part.data for part in tokens)))
