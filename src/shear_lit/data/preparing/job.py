"""One run of ``prepare``: its settings, whole, and what was found out before the first text is read."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from shear_lit.data.chat.messages import conversation_of_text
from shear_lit.data.chat.records import Conversations
from shear_lit.data.prepared.contamination import Contaminated, DecontaminationRecord
from shear_lit.data.prepared.conversations import ChatRecord
from shear_lit.data.prepared.manifest import TokenizerRecord
from shear_lit.data.preparing.chat_settings import ChatSettings
from shear_lit.data.preparing.commit import SELECTION
from shear_lit.data.preparing.settings import CommonSettings, PrepareSettings
from shear_lit.data.text.contamination.documents import cleaned_documents
from shear_lit.data.text.contamination.grams import Grams
from shear_lit.data.text.documents import Found
from shear_lit.data.text.records import Records, TextField
from shear_lit.data.tokens.encoder import Encoder
from shear_lit.data.tokens.encoding import Tokenised, text_tokenised


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every task of a run is given; ``TextJob`` and ``ChatJob`` say what a document is."""

    settings: CommonSettings
    """What the user asked for."""
    tokenizer: TokenizerRecord
    """What makes the tokens."""
    work: Path
    """Where the run works: nothing else is touched before the end."""
    decontamination: DecontaminationRecord | None = None
    """The evaluation tasks that documents are held against, if there are any."""

    @property
    def spools(self) -> Path:
        """Directory of the tokenised pieces of work."""
        return self.work / "spool"

    @property
    def sections(self) -> Path:
        """Directory of what is known of the sections that are tokenised."""
        return self.work / "sections"

    @property
    def packed(self) -> Path:
        """Directory in which what is to be added to the output is collected."""
        return self.work / "packed"

    @property
    def marks(self) -> Path:
        """File of where each document goes."""
        return self.work / "marks"

    @property
    def plan(self) -> Path:
        """File of what all parts of the run agree on."""
        return self.work / "plan.json"

    @property
    def selection(self) -> Path:
        """File that says what was selected."""
        return self.work / SELECTION

    @property
    def tasks(self) -> Path:
        """File of the tasks that pack, one on each line."""
        return self.work / "tasks.jsonl"

    @property
    def tokenizer_file(self) -> Path:
        """File with the tokenizer, in the form that the tokenizers library writes."""
        return self.work / "tokenizer.json"

    @property
    def all_grams(self) -> Path:
        """File of the grams of evaluation tasks."""
        return self.work / "all-grams.npz"

    @property
    def grams(self) -> Path:
        """File of those that are cut out."""
        return self.work / "grams.npz"

    @property
    def counted_grams(self) -> Path:
        """File of how many documents have each of them, for the ledger."""
        return self.work / "grams.bin"

    @property
    def scratch(self) -> Path:
        """Directory for copies of inputs in remote storage, one for each process."""
        return self.work / "scratch"

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

    @cached_property
    def tokens_key(self) -> str:
        """Hash of all that decides the tokens of a document, besides its text."""
        content = [hashlib.sha256(self.tokenizer_file.read_bytes()).hexdigest(), *self._deciding()]
        content += [] if self.decontamination is None else [self.decontamination.looked_for]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _deciding(self) -> list[Any]:
        """What decides the tokens of a document, besides its text and the tokenizer."""
        raise NotImplementedError

    def cleaned(self, found: list[Found]) -> tuple[list[Found], Contaminated | None]:
        """Documents without text of evaluation tasks, and what was cut out of them."""
        if self.decontamination is None:
            return found, None
        return cleaned_documents(found, _grams(str(self.grams), self.tokens_key))

    @cached_property
    def reading_key(self) -> str:
        """All that decides which pieces of work an input has, and what is in their spools."""
        reading = [repr(self.records), self.end_of_text, self.unit_bytes, self.max_document_bytes]
        return json.dumps([self.tokens_key, *reading])

    def compared(self, text: str) -> str:
        """What of a document tells whether another one is the same."""
        return text

    def tokenised(self, texts: Iterable[str]) -> Iterator[Tokenised]:
        """The tokens of each text in order, without those that are put before and after a document."""
        raise NotImplementedError

    @property
    def chat(self) -> ChatRecord | None:
        """What made tokens of conversations, if documents are such."""
        return None

    @property
    def vocabulary(self) -> int:
        """The largest token id that the tokenizer gives, and one."""
        return self.tokenizer.vocabulary

    # What reading asks for

    @property
    def records(self) -> Records:
        """What the document of a record is."""
        raise NotImplementedError

    @property
    def end_of_text(self) -> int | None:
        """The token that ends each document of an already tokenised input."""
        return self.tokenizer.eos_id

    @property
    def field_key(self) -> str:
        """The key that names the field with a record's document."""
        return "text_field"

    @property
    def unit_bytes(self) -> int:
        """Bytes of a piece of work, about."""
        return self.settings.unit_bytes

    @property
    def max_document_bytes(self) -> int:
        """Larger documents are rejected."""
        return self.settings.max_document_bytes


@dataclass(frozen=True, kw_only=True)
class TextJob(Job):
    """A run whose documents are text, or tokens."""

    settings: PrepareSettings
    """What the user asked for."""

    def tokenised(self, texts: Iterable[str]) -> Iterator[Tokenised]:
        """As in ``Job``: all of a text is to be predicted."""
        encoder = _encoder(str(self.tokenizer_file), self.settings.split_special_tokens, self.tokens_key)
        return text_tokenised(encoder, texts)

    @property
    def records(self) -> Records:
        """As in ``Job``: the text of a field."""
        return TextField(self.settings.text_field)

    @property
    def end_of_text(self) -> int | None:
        """As in ``Job``, unless the user says otherwise."""
        asked = self.settings.end_of_text
        return self.tokenizer.eos_id if asked is None else asked

    def _deciding(self) -> list[Any]:
        return [self.settings.split_special_tokens, self.before, self.after, self.token_type]


@dataclass(frozen=True, kw_only=True)
class ChatJob(Job):
    """A run whose documents are conversations."""

    settings: ChatSettings
    """What the user asked for."""
    made_by: ChatRecord
    """The template, and what else makes tokens of conversations."""

    def compared(self, text: str) -> str:
        """As in ``Job``: what its messages say."""
        return conversation_of_text(text).as_lines()

    def tokenised(self, texts: Iterable[str]) -> Iterator[Tokenised]:
        """As in ``Job``: what the assistant says is to be predicted."""
        return _chat_encoder(self).encode(texts)

    @property
    def chat(self) -> ChatRecord:
        """As in ``Job``."""
        return self.made_by

    @property
    def field_key(self) -> str:
        """As in ``Job``."""
        return "messages_field"

    @property
    def records(self) -> Records:
        """As in ``Job``: the messages of a field, or of the form that a record has."""
        return Conversations(self.settings.messages_field)

    def _deciding(self) -> list[Any]:
        return [asdict(self.made_by), self.settings.sequence_length, self.token_type]


@lru_cache(maxsize=1)
def _grams(file: str, key: str) -> Grams:
    return Grams.load(Path(file))


@lru_cache(maxsize=2)
def _encoder(file: str, split_special_tokens: bool, key: str) -> Encoder:  # noqa: FBT001 (what it is known by)
    return Encoder(file, split_special_tokens=split_special_tokens)


_CHAT_ENCODERS: dict[str, Any] = {}


def _chat_encoder(job: ChatJob) -> Any:
    """What makes tokens of conversations, made once in each process."""
    if job.tokens_key not in _CHAT_ENCODERS:
        from shear_lit.data.chat.encoder import ChatEncoder  # transformers comes along with it

        _CHAT_ENCODERS.clear()
        _CHAT_ENCODERS[job.tokens_key] = ChatEncoder(
            job.tokenizer_file, job.made_by, length=job.settings.sequence_length
        )
    return _CHAT_ENCODERS[job.tokens_key]
