"""A model that one talks to: what it is told, and what it says, as text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer

from shear_lit.commands.measuring import chosen_device
from shear_lit.evaluation.chat_format import ChatFormat, read_chat_format
from shear_lit.mistakes import Mistake
from shear_lit.models.answering import Sampling, write_answer
from shear_lit.models.choices import Device
from shear_lit.models.huggingface import read_config, read_model, stored_dtype
from shear_lit.models.memory import check_fits, stored_parameters
from shear_lit.models.source_files import pinned

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that would move a terminal's cursor, or turn text around."""
_PARTIAL = "\ufffd"
"""What stands for bytes that are no whole character."""


class ChatError(Mistake):
    """Something that cannot be said to a model."""


class Enough(Exception):
    """Raised while an answer is shown: what is there is the answer."""


class Pieces:
    """The text of tokens that come one by one, each character as soon as it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Decode by ``tokenizer``; special tokens have no text."""
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # A part of the text is decoded behind the part before it, on which its first space may depend.
        self._before = self._told = 0

    def add(self, token: int) -> str:
        """What is new; nothing while a character waits for its other bytes."""
        self._tokens.append(token)
        return self._new(whole=True)

    def rest(self) -> str:
        """What waits still, where nothing more comes."""
        return self._new(whole=False)

    def _new(self, *, whole: bool) -> str:
        earlier, now = self._text(self._told), self._text(len(self._tokens))
        if len(now) <= len(earlier) or (whole and now.endswith(_PARTIAL)):
            return ""
        self._before, self._told = self._told, len(self._tokens)
        return now[len(earlier) :]

    def _text(self, end: int) -> str:
        return str(self._tokenizer.decode(self._tokens[self._before : end], skip_special_tokens=True))


@dataclass
class Conversation:
    """What was said to one model, and what it has answered."""

    messages: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def under(cls, system: str | None) -> Self:
        """One of which nothing was said yet, under an instruction if there is one."""
        return cls([] if system is None else [{"role": "system", "content": system}])


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A model with its tokenizer and its template."""

    name: str
    """What it is called."""
    network: Any
    """The model."""
    format: ChatFormat
    """How it is told a conversation."""
    sampling: Sampling
    """How it chooses what to say."""
    longest: int | None
    """Tokens that it was made for, if its config says so."""

    def answer(self, conversation: Conversation, text: str, show: Callable[[str], None]) -> str:
        """What the model answers to ``text``, which ``show`` is given piece by piece; both are said then.

        What was shown before Ctrl-C stays said; of an answer that had not begun, nothing does.

        Raises:
            ChatError: the conversation has become longer than what the model was made for.
            Mistake: the template cannot express it.
        """
        asked = [*conversation.messages, {"role": "user", "content": text}]
        prompt = self.format.prompt(asked)
        self._check_length(len(prompt))
        pieces: list[str] = []
        decoded = Pieces(self.format.tokenizer.backend)

        def say(piece: str) -> None:
            if piece:
                pieces.append(piece)
                show(printable(piece))

        try:
            write_answer(
                self.network,
                prompt,
                self.sampling,
                ends=self.format.ends,
                take=lambda token: say(decoded.add(token)),
            )
            say(decoded.rest())
        except Enough:
            pass
        finally:
            if pieces:
                conversation.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
        return "".join(pieces)

    def _check_length(self, tokens: int) -> None:
        if self.longest is not None and tokens >= self.longest:
            raise ChatError(
                f"the conversation has {tokens:,} tokens, and {self.name} was made for {self.longest:,}: it is not "
                f"asked. /reset begins a new one."
            )


def printable(text: str) -> str:
    """A model's words without the characters that a terminal would obey."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def open_speakers(
    models: Sequence[str],
    sampling: Sampling,
    *,
    template: str | None,
    system: str | None,
    dtype: str,
    device: Device,
) -> list[Speaker]:
    """Read models to talk to; all refusals come before any weight is read.

    Raises:
        SourceError, DataError: one cannot be read, or has no tokenizer or no template.
        Mistake: its template cannot express a conversation under ``system``.
    """
    places = [pinned(model) for model in models]
    configs = [read_config(place, for_training=False) for place in places]
    formats = [read_chat_format(place, template=template) for place in places]
    begin = Conversation.under(system).messages
    for each in formats:
        each.prompt([*begin, {"role": "user", "content": "?"}])
    short = [Path(model).name for model in models]
    names = short if len(set(short)) == len(short) else list(models)
    found = []
    for name, place, config, each in zip(names, places, configs, formats, strict=True):
        longest = getattr(config, "max_position_embeddings", None)
        found.append(
            Speaker(
                name=name,
                network=_network(place, dtype, device),
                format=each,
                sampling=sampling,
                longest=None if longest is None else int(longest),
            )
        )
    return found


def _network(place: str, dtype: str, device: Device) -> Any:
    named = stored_dtype(place, for_training=False) if dtype == "source" else dtype
    where, computed = chosen_device(device), getattr(torch, named)
    check_fits(place, stored_parameters(place), computed, where)
    return read_model(place, dtype=computed, for_training=False).to(where).eval()  # type: ignore[arg-type]
