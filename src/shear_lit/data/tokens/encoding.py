"""Tokenising one piece of work: from its documents to a spool file.

Worker processes import this module: it needs the tokenizers library and numpy, and neither torch nor transformers.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shear_lit.data.text.documents import document_hash
from shear_lit.data.text.reading import BLANK, Found, read_documents
from shear_lit.data.tokens.spool import SpoolRecord, write_spool

REPORTED = 5
"""How many rejected documents of a piece of work are named."""

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 500_000  # an encoded text takes a hundred times its tokens' bytes


@dataclass(frozen=True, kw_only=True)
class Tokenising:
    """What decides the tokens of a document."""

    tokenizer: str
    """File with the tokenizer, in the form that the tokenizers library writes."""
    split_special_tokens: bool
    """Whether a special token's name inside a text is text."""
    before: tuple[int, ...]
    """Tokens put before each document."""
    after: tuple[int, ...]
    """Tokens put after each document."""
    token_type: str
    """``uint16`` or ``uint32``."""
    text_field: str
    """Field that holds a record's document."""
    max_document_bytes: int
    """Larger documents are rejected."""


class UnitTokenizer:
    """Tokenises pieces of work, one after the other."""

    def __init__(self, settings: Tokenising) -> None:
        """Load the tokenizer."""
        self._settings = settings
        self._tokenizer = Tokenizer.from_file(settings.tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = settings.split_special_tokens

    def write(self, task: dict[str, Any], block: bytes, path: Path) -> SpoolRecord:
        """Tokenise the piece of work ``task`` into the spool file ``path``.

        Raises:
            DataError: an input cannot be read.
            OSError: the spool file cannot be written.
        """
        hashes, lengths, parts, tally = bytearray(), list[int](), list[NDArray[np.generic]](), _Tally()
        for texts in _batches(tally.usable(self._documents(task, block))):
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for text, encoding in zip(texts, encoded, strict=True):
                hashes += document_hash(text)
                parts.append(self._tokens(encoding.ids))
                lengths.append(len(parts[-1]))
        record = SpoolRecord(
            documents=len(lengths),
            tokens=sum(lengths),
            numbers=tally.numbers,
            rejected=dict(sorted(tally.rejected.items())),
            first=tally.first,
            token_type=self._settings.token_type,
        )
        write_spool(path, record, bytes(hashes), lengths, parts)
        return record

    def _documents(self, task: dict[str, Any], block: bytes) -> Iterator[Found]:
        settings = self._settings
        return read_documents(
            task, block, text_field=settings.text_field, max_document_bytes=settings.max_document_bytes
        )

    def _tokens(self, ids: list[int]) -> NDArray[np.generic]:
        tokens = [*self._settings.before, *ids, *self._settings.after]
        return np.array(tokens, dtype=np.dtype(self._settings.token_type).newbyteorder("<"))


class _Tally:
    """What cannot be used is counted and its place noted, never passed over in silence."""

    def __init__(self) -> None:
        self.numbers = 0
        self.rejected: Counter[str] = Counter()
        self.first: list[tuple[int, str]] = []

    def usable(self, documents: Iterator[Found]) -> Iterator[str]:
        for number, text, reason in documents:
            self.numbers = number
            if not reason:
                yield text
            elif reason != BLANK:
                self.rejected[reason] += 1
                if len(self.first) < REPORTED:
                    self.first.append((number, reason))


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
