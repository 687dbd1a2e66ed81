"""A file of prompts with references: one JSON object a line, a conversation whose last message is the reference."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shear_lit.data.chat.messages import ASSISTANT, conversation_of_record
from shear_lit.disk.reading import parse_json
from shear_lit.mistakes import Mistake

KEY = "prompts"
"""What ``compare`` calls the file."""
MOST_LINE_BYTES = 1 << 20
"""The most bytes of one line."""
Message = Mapping[str, Any]
_FORMS = '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]} or {"prompt": ..., '
_FORMS += '"reference": ...}'


class PromptError(Mistake):
    """A file of prompts that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What models are asked, and a good answer."""

    line: int
    """Where it stands in its file, from 1."""
    messages: tuple[Message, ...]
    """The conversation before the answer; the last one is no assistant's."""
    reference: str
    """The answer that models are measured on."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of a file."""

    file: str
    """The file as it was named."""
    prompts: tuple[Prompt, ...]
    """In the order of its lines."""

    @property
    def fingerprint(self) -> str:
        """A hash of what is asked and of the references."""
        content = [asdict(prompt) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_prompts(name: str, path: Path, *, most: int | None = None) -> Prompts:
    """The first ``most`` prompts of the file ``path``, which was named ``name``; all of them by default.

    Raises:
        PromptError: it cannot be read, has no prompt, or a line of it is none.
    """
    found: list[Prompt] = []
    try:
        if not path.is_file():
            raise PromptError(
                f"{name!r} is no file: JSON lines with prompts are expected. Correct the path.", key=KEY
            )
        with path.open("rb") as file:
            number = 0
            while (most is None or len(found) < most) and (line := file.readline(MOST_LINE_BYTES + 1)):
                number += 1
                if line.strip():
                    found.append(_prompt(line, number, name))
    except OSError as error:
        raise PromptError(
            f"{name!r} cannot be read ({error.strerror}). Correct the path.", key=KEY
        ) from error
    if not found:
        raise PromptError(f"{name!r} has no line: each is one prompt, as {_FORMS}. Add some.", key=KEY)
    return Prompts(file=name, prompts=tuple(found))


def _prompt(line: bytes, number: int, name: str) -> Prompt:
    """The prompt of a line.

    Raises:
        PromptError: it is none.
    """
    try:
        if len(line) > MOST_LINE_BYTES:
            raise ValueError(f"it has more than {MOST_LINE_BYTES:,} bytes")
        entry = parse_json(line)
        messages, reference = _parts(entry)
    except (ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise PromptError(
            f"{name!r}, line {number}: {what}. Each line is {_FORMS}. Correct it.", key=KEY
        ) from error
    return Prompt(line=number, messages=messages, reference=reference)


def _parts(entry: Any) -> tuple[tuple[Message, ...], str]:
    if not isinstance(entry, dict):
        raise ValueError("it is no object of keys and values")
    if "prompt" in entry or "reference" in entry:
        entry = {
            "system": entry.get("system"),
            "instruction": entry.get("prompt"),
            "output": entry.get("reference"),
        }
    messages = conversation_of_record(entry).messages
    if messages[-1]["role"] != ASSISTANT:
        raise ValueError("its last message is no assistant's, which would be the reference")
    if len(messages) < 2:
        raise ValueError("nothing is asked before the reference")
    return tuple(messages[:-1]), messages[-1]["content"]
