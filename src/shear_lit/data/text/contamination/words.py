"""Words as they are compared with those of evaluation tasks: in lower case, between white space, without punctuation.

This is the gram of GPT-3's filter (arXiv:2005.14165, appendix C). What is no letter and no digit is taken away, also
inside a word. Worker processes import this module: it needs the standard library alone.
"""

import re
from typing import NamedTuple

_ASCII = str.maketrans("", "", "".join(c for c in map(chr, range(128)) if not (c.isalnum() or c.isspace())))
_NO_WORD = re.compile(r"[^\w\s]+|_+")
_BETWEEN_SPACES = re.compile(r"\S+")


class Place(NamedTuple):
    """Where a word stands in its text."""

    start: int
    """Its first character, punctuation included."""
    end: int
    """The place behind its last one."""


def words_of(text: str) -> list[str]:
    """The words of a text, in order; what is only punctuation is none."""
    return _bare(text.lower()).split()


def places_of(text: str) -> list[Place]:
    """Where each of the words of ``words_of`` stands; many times slower."""
    found = _BETWEEN_SPACES.finditer(text)
    return [Place(*match.span()) for match in found if _bare(match.group().lower())]


def _bare(text: str) -> str:
    return text.translate(_ASCII) if text.isascii() else _NO_WORD.sub("", text)
