"""One run of ``prepare``: its settings, whole, and what was found out before the first text is read."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from shear_lit.data.prepared.manifest import TokenizerRecord
from shear_lit.data.preparing.settings import PrepareSettings


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every task of a run is given."""

    settings: PrepareSettings
    """What the user asked for."""
    tokenizer: TokenizerRecord
    """What makes the tokens."""
    work: Path
    """Where the run works: nothing else is touched before the end."""

    @property
    def spools(self) -> Path:
        """Directory of the tokenised pieces of work."""
        return self.work / "spool"

    @property
    def packed(self) -> Path:
        """Directory in which what is to be added to the output is collected."""
        return self.work / "packed"

    @property
    def marks(self) -> Path:
        """File of where each document goes."""
        return self.work / "marks"

    @property
    def tokenizer_file(self) -> Path:
        """File with the tokenizer, in the form that the tokenizers library writes."""
        return self.work / "tokenizer.json"

    @property
    def token_type(self) -> str:
        """``uint16`` or ``uint32``."""
        return "uint16" if self.tokenizer.vocabulary <= 1 << 16 else "uint32"

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger]":
        """How a token is stored."""
        return np.dtype(self.token_type).newbyteorder("<")

    @property
    def per_chunk(self) -> int:
        """Sequences of a full chunk."""
        return max(1, self.settings.chunk_bytes // (self.settings.sequence_length * self.dtype.itemsize))

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens put before each document."""
        bos = self.tokenizer.bos_id
        return (bos,) if self.settings.prepend_bos and bos is not None else ()

    @property
    def after(self) -> tuple[int, ...]:
        """Tokens put after each document."""
        eos = self.tokenizer.eos_id
        return (eos,) if self.settings.append_eos and eos is not None else ()

    @property
    def end_of_text(self) -> int | None:
        """The token that ends each document of an already tokenised input."""
        asked = self.settings.end_of_text
        return self.tokenizer.eos_id if asked is None else asked

    @cached_property
    def tokens_key(self) -> str:
        """Hash of all that decides the tokens of a document, besides its text."""
        content = [
            hashlib.sha256(self.tokenizer_file.read_bytes()).hexdigest(),
            self.settings.split_special_tokens,
            self.before,
            self.after,
            self.token_type,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def split_special_tokens(self) -> bool:
        """Whether text that looks like a special token is text."""
        return self.settings.split_special_tokens

    @property
    def vocabulary(self) -> int:
        """The largest token id that the tokenizer gives, and one."""
        return self.tokenizer.vocabulary

    # What reading asks for

    @property
    def text_field(self) -> str:
        """Field that holds a record's document."""
        return self.settings.text_field

    @property
    def unit_bytes(self) -> int:
        """Bytes of a piece of work, about."""
        return self.settings.unit_bytes

    @property
    def max_document_bytes(self) -> int:
        """Larger documents are rejected."""
        return self.settings.max_document_bytes
