"""Tokenising one piece of work into a spool file: its tokens, and the hash and length of every document.

The name of a spool file is a hash of all that decides what is in it: of the documents themselves, and of what makes
their tokens. That it is there says that they are tokenised, whatever file they came from. Worker processes import this
module: it needs the tokenizers library and numpy, and neither torch nor transformers.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from shear_lit.data.prepared.contamination import Contaminated
from shear_lit.data.text.documents import BLANK, UNCUTTABLE, Found, document_hash
from shear_lit.data.text.pieces import Piece, Reading, documents
from shear_lit.data.tokens.encoder import Encoder
from shear_lit.data.tokens.spools import Flags, SpoolRecord, Tokens, record_of_spool, write_spool

REPORTED = 5
"""How many rejected documents of a piece of work are named."""

_CONTENTS = 1 << 256
NOTHING = "0" * 64
"""What an input without a document holds."""


class Tokenised(NamedTuple):
    """A document as tokens."""

    ids: Tokens
    """Their ids; none where the document cannot be used."""
    flags: Flags | None = None
    """What each of them is, as ``spools`` writes it; none for text, all of which is to be predicted."""
    reason: str = ""
    """Why it cannot be used; empty if it can be."""


class Encoding(Reading, Protocol):
    """What decides the tokens of a document, and where they are written."""

    @property
    def spools(self) -> Path:
        """Directory of the spool files."""

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

    def compared(self, text: str) -> str:
        """What of a document tells whether another one is the same; see ``document_hash``."""

    def cleaned(self, found: list[Found]) -> tuple[list[Found], Contaminated | None]:
        """Documents without text of evaluation tasks, and what was cut out; see ``cleaned_documents``."""

    def tokenised(self, texts: Iterable[str]) -> Iterator[Tokenised]:
        """The tokens of each text in order, without those that are put before and after a document."""

    @property
    def vocabulary(self) -> int:
        """The largest token id that the tokenizer gives, and one."""


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
    return encoded(job, piece, list(documents(piece, job)))


def encoded(job: Encoding, piece: Piece, found: list[Found]) -> Encoded:
    """Tokenise the documents ``found`` of a piece of work, as ``encode`` does those that it reads."""
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
    usable, contaminated = job.cleaned([document for document in found if tally.is_usable(document)])
    before, after = (np.array(ids, dtype=job.dtype) for ids in (job.before, job.after))
    hashes, parts, flags = bytearray(), list[Tokens](), list[Flags]()
    for document, one in zip(usable, _tokens(job, usable), strict=True):
        if one.reason:
            tally.reject(document.number, one.reason)
            continue
        is_text = document.tokens is None
        hashes += document_hash(job.compared(document.text)) if is_text else _hash_of_tokens(one.ids)
        parts.append(np.concatenate([before, one.ids, after], dtype=job.dtype, casting="unsafe"))
        flags += [] if one.flags is None else [one.flags]
    record = SpoolRecord(
        documents=len(parts),
        tokens=sum(map(len, parts)),
        numbers=tally.numbers,
        rejected=dict(sorted(tally.rejected.items())),
        first=sorted(tally.first)[:REPORTED],
        token_type=job.dtype.name,
        flagged=bool(flags),
        contaminated=contaminated,
    )
    write_spool(path, record, bytes(hashes), parts, flags)
    return record


def _tokens(job: Encoding, usable: list[Found]) -> Iterator[Tokenised]:
    """The token ids of each document, whether it is text or came as such."""
    encoded = job.tokenised(document.text for document in usable if document.tokens is None)
    for document in usable:
        yield (
            next(encoded)
            if document.tokens is None
            else _checked(np.asarray(document.tokens), job.vocabulary)
        )


def _checked(ids: Tokens, vocabulary: int) -> Tokenised:
    too_large = int(ids.max()) >= vocabulary
    return Tokenised(ids, reason=f"token ids beyond the tokenizer's {vocabulary:,}" if too_large else "")


def text_tokenised(encoder: Encoder, texts: Iterable[str]) -> Iterator[Tokenised]:
    """The tokens of each text, all of which is to be predicted."""
    for ids in encoder.encode(texts):
        yield Tokenised(np.empty(0, np.uint32), reason=UNCUTTABLE) if ids is None else Tokenised(ids)


def _hash_of_tokens(ids: Tokens) -> bytes:
    return hashlib.sha256(ids.astype("<u4").tobytes()).digest()[:16]


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
