"""Documents as they are, cut into tokens by each model's own tokenizer: the same text for models that share none."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from shear_lit.data.errors import DataError
from shear_lit.data.serving.batch import DomainBatch
from shear_lit.data.text.pieces import check_text_field, documents, pieces
from shear_lit.data.text.records import TextField
from shear_lit.data.text.sources import find_sources
from shear_lit.data.tokens.tokenizer import TextTokenizer, tokenizer_of
from shear_lit.models.huggingface import read_config
from shear_lit.models.text_check import check_text

CHARACTERS = 1000
"""What is read of a document: its beginning, which every model takes whole."""
_KEY = "data"


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How the files are read."""

    records: TextField = field(default_factory=lambda: TextField("text"))
    unit_bytes: int = 1 << 20
    max_document_bytes: int = 1 << 24
    end_of_text: int | None = None
    scratch: Path = field(default_factory=Path)  # of no use: the files are of this machine


@dataclass(frozen=True, kw_only=True)
class RawText:
    """The beginnings of documents, by domain."""

    texts: dict[str, tuple[str, ...]]
    """Of each domain."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains' names: those of the files."""
        return tuple(self.texts)

    @property
    def fingerprint(self) -> str:
        """A hash of the text."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def bytes_of(self, domain: str) -> Float64[np.ndarray, "documents"]:
        """The bytes of each document, in the order of their numbers."""
        return np.array([len(text.encode()) for text in self.texts[domain]], dtype=np.float64)

    def check(self, model: str) -> None:
        """Refuse a model that does not take the longest document whole, before any weight is read.

        Raises:
            TextError, DataError, SourceError: it does not, or has no tokenizer.
        """
        tokenizer = tokenizer_of(model)
        check_text(
            read_config(model, for_training=False),
            model=model,
            text=", ".join(self.domains),
            vocabulary=tokenizer.vocabulary,
            sequence_length=max(batch["tokens"].shape[1] for batch in self.batches(model)),
            key=_KEY,
        )

    def batches(self, model: str) -> Iterator[DomainBatch]:
        """One document after the other, behind the token that begins or ends a text: all of its bytes are predicted.

        Raises:
            DataError: the tokenizer has neither token.
        """
        tokenizer = tokenizer_of(model)
        start = _start(tokenizer, model)
        for domain, texts in enumerate(self.texts.values()):
            for number, text in enumerate(texts):
                tokens = [start, *tokenizer.backend.encode(text, add_special_tokens=False).ids]
                yield {
                    "tokens": torch.tensor([tokens]),
                    "domain": torch.tensor([domain]),
                    "micro_batch": 0,
                    "document": torch.full((1, len(tokens)), number),
                }


def is_raw(data: str, place: Path) -> bool:
    """Whether a name means a file of text, and no prepared data."""
    return place.is_file() and "://" not in data


def read_raw_text(files: Sequence[str], *, documents_per_domain: int) -> RawText:
    """The first documents of files of text, each of which is a domain.

    Raises:
        DataError: a file cannot be read or has no document, or two have one name.
    """
    domains = {Path(file).name.partition(".")[0]: file for file in files}
    if len(domains) < len(files):
        raise DataError(
            f"{list(files)}: two files have one name, which is what their domain is called. Rename one.",
            key=_KEY,
        )
    return RawText(
        texts={name: _beginnings(name, file, documents_per_domain) for name, file in domains.items()}
    )


def _beginnings(domain: str, file: str, most: int) -> tuple[str, ...]:
    reading = _Reading()
    sources = find_sources({domain: file})
    check_text_field(sources, reading)
    found: list[str] = []
    for piece in pieces(sources, reading):
        for document in documents(piece, reading):
            if document.text.strip() and len(found) < most:
                found.append(document.text[:CHARACTERS])
        if len(found) >= most:
            break
    if not found:
        raise DataError(f"{file!r} has no document that can be used. Name a file that has some.", key=_KEY)
    return tuple(found)


def _start(tokenizer: TextTokenizer, model: str) -> int:
    start = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if start is None:
        raise DataError(
            f"{model!r}: its tokenizer has no token that begins or ends a text, behind which a document could stand. "
            f"Name prepared data in place of files.",
            key=_KEY,
        )
    return start
