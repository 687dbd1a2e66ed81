"""What a file of the corpus is, and what must come of it: documents, rejects, or one line of refusal."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

LIMIT = 2000
"""``max_document_bytes`` with which the corpus is read."""
END = 7
"""``end_of_text`` likewise."""
NO_TEXT = "no text in field 'text'"


class Outcome(NamedTuple):
    """What must come of a file."""

    documents: dict[int, object]
    """The text, or the token ids, of each usable document, by its number in the file."""
    rejects: dict[int, str]
    """The reason for each other one."""
    refusal: str = ""
    """A part of the one line that is said instead."""


@dataclass(frozen=True)
class Case:
    """One file of the corpus."""

    name: str
    content: bytes | Callable[[Path], None]
    outcome: Outcome
    prefix: str = ""
    """What its path is named with: ``uint16:``."""
    package: str = ""
    beside: dict[str, bytes] = field(default_factory=dict)

    def write(self, directory: Path) -> str:
        """Write it; how it is named in a list of inputs."""
        if self.package:
            pytest.importorskip(self.package)
        for name, content in self.beside.items():
            (directory / name).write_bytes(content)
        path = directory / self.name
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        return f"{self.prefix}{path}"


def good(*texts, first=1):
    return Outcome(dict(enumerate(texts, start=first)), {})


def rejected(reason, *numbers, texts=None):
    return Outcome(texts or {}, dict.fromkeys(numbers or (1,), reason))


def refused(said):
    return Outcome({}, {}, said)


def line(text, **others):
    return json.dumps({**others, "text": text}, ensure_ascii=False).encode() + b"\n"


ONE, TWO = line("one"), line("two")
BOM = b"\xef\xbb\xbf"


LONG = "x" * (LIMIT + 1)
