"""A model that one talks to: what it is told, and what it says, as text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers.decoders import DecodeStream

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


class ChatError(Mistake):
    """Something that cannot be said to a model."""


class Enough(Exception):
    """Raised while an answer is shown: what is there is the answer."""


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
        stream = DecodeStream(skip_special_tokens=True)

        def take(token: int) -> None:
            piece = stream.step(self.format.tokenizer.backend, token)
            if piece:
                pieces.append(piece)
                show(printable(piece))

        try:
            write_answer(self.network, prompt, self.sampling, ends=self.format.ends, take=take)
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
