"""Documents: what counts as one, how it is read from bytes or a record, and what tells two of them apart.

Worker processes import this module: it needs the standard library alone.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

EMPTY, INVALID, MALFORMED, TOO_LARGE = (
    "empty document",
    "invalid UTF-8",
    "malformed JSON",
    "larger than max_document_bytes",
)
"""Reasons for which a document cannot be used; the fourth depends on a setting."""
UTF_16 = "UTF-16 or binary data instead of UTF-8"
"""The reason for bytes with zeros where text has none, which is how UTF-16 looks to a reader of UTF-8."""
NESTED = "JSON nested too deeply"
"""The reason for a record with more than ``MOST_DEPTH`` brackets open at once."""
UNCUTTABLE = "too long to be tokenised at once, and nowhere to be cut"
"""The reason for a document of which no tokens can be had in bounded memory."""
BLANK = "blank"
"""The reason given for a line of white space, which is no document and nobody's mistake."""
MOST_DEPTH = 200
"""Brackets that a record has open at once at most: what Python itself can parse depends on who calls it."""
BOM = b"\xef\xbb\xbf"
"""What some programs begin a UTF-8 file with; it is no part of the text."""
HASH_BYTES = 16
"""Bytes of the hash of a document."""
PLACES = 1 << 64
"""How many places a hash can name; see ``document_hash``."""

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_INVISIBLE = re.compile("[\0\u00ad\u180e\u200b-\u200f\u2060-\u2064\ufeff]")
_BRACKETS = re.compile(r"[\[{]++|[\]}]++")


class Found(NamedTuple):
    """One document of a piece of work."""

    number: int
    """Which line, row or file of its piece it is, from 1."""
    text: str
    """The text, empty if it cannot be used."""
    reason: str
    """Why it cannot be used, ``BLANK`` for a blank line, which is no document; empty if it can be used."""
    tokens: Any = None
    """The token ids, a NumPy array, of a document that is tokenised already; ``text`` is empty then."""


def missing(text_field: str) -> str:
    """The reason for which a record without text is not used."""
    return f"no text in field {text_field!r}"


def repeated(text_field: str) -> str:
    """The reason for which a record that has two different texts is not used."""
    return f"field {text_field!r} twice"


def found_in_line(
    number: int, line: bytes, text_of: Callable[[bytes], tuple[str, str]], *, limit: int
) -> Found:
    """What a line with a JSON object is, with or without its newline.

    Args:
        number: Which one it is.
        line: It, of which ``text_of`` gives the text, or an empty one and the reason why it has none.
        text_of: As ``text_of_record`` does.
        limit: Bytes that it may have at most.
    """
    content = line.removesuffix(b"\n")
    if len(content) > limit:
        return Found(number, "", TOO_LARGE)
    content = content.removeprefix(BOM)
    if not content or content.isspace():
        return Found(number, "", BLANK)
    return Found(number, *text_of(content))


def found_in_text(number: int, text: str, *, limit: int) -> tuple[Found, int]:
    """What a text is that was read elsewhere, as that of a record, and its size in bytes.

    Args:
        number: Which one it is.
        text: It.
        limit: Bytes that it may have at most.
    """
    found = Found(number, *checked(text, EMPTY))
    size = len(found.text.encode())
    return (Found(number, "", TOO_LARGE) if size > limit else found), size


def text_of_record(line: bytes, text_field: str) -> tuple[str, str]:
    """The text of a line of JSON, or an empty one and the reason why it has none."""
    content, reason = json_of_line(line)
    if reason:
        return "", reason
    try:
        record = parsed(content)
    except ValueError:
        return "", not_text(line, MALFORMED)
    if not isinstance(record, dict):
        return "", missing(text_field)
    if _has_two_texts(content, text_field):
        return "", repeated(text_field)
    return checked(record.get(text_field), missing(text_field))


def json_of_line(line: bytes) -> tuple[str, str]:
    """What a line of JSON says, not yet parsed, or nothing and the reason why it cannot be."""
    try:
        content = line.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError:
        return "", not_text(line, INVALID)
    return ("", NESTED) if _is_deep(content) else (content, "")


def parsed(content: str) -> Any:
    """What JSON says, with all of its numbers as floats: Python refuses whole numbers of thousands of digits.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(content, parse_int=float)
    except RecursionError as error:
        raise ValueError(NESTED) from error


def text_of_bytes(content: bytes) -> tuple[str, str]:
    """The text that ``content`` encodes, or an empty one and the reason why there is none."""
    if content.startswith(_UTF_16_MARKS) or content.count(0) * 4 > len(content):
        return "", UTF_16
    try:
        return checked(content.removeprefix(BOM).decode("utf-8"), INVALID)
    except UnicodeDecodeError:
        return "", INVALID


def checked(text: Any, no_text: str) -> tuple[str, str]:
    """``text`` if it is text that can be used, otherwise an empty one and the reason; ``no_text`` if it is none."""
    if not isinstance(text, str):
        return "", no_text
    if not text or text.isspace():
        return "", EMPTY
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, written as an escape
        return "", INVALID
    return text, ""


def document_hash(text: str) -> bytes:
    """128 bits, the same for texts that differ only in what a reader does not see as a difference.

    That is case, white space, Unicode normalisation (NFKC), zero-width characters and zero bytes. The first 64 of
    them, the most significant first, are the document's **place**: it decides its split.
    """
    return hashlib.sha256(folded(text).encode()).digest()[:HASH_BYTES]


def folded(text: str) -> str:
    """What ``text`` is compared by; folding that again changes nothing."""
    if text.isascii():
        return " ".join(text.replace("\0", "").lower().split())
    if len(lines := text.split("\n")) > 1:  # none changes what is next to it
        return " ".join(filter(None, map(folded, lines)))
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    # Folding the case of normal text can leave text that is not normal, whose case may have to be folded again.
    while (again := unicodedata.normalize("NFKC", text.casefold())) != text:
        text = again
    return " ".join(text.split())


def place_of(text: str) -> float:
    """The place of a document, a fraction in [0, 1]."""
    return int.from_bytes(document_hash(text)[:8]) / PLACES


def listed(reasons: dict[str, int]) -> str:
    """Rejected documents by reason, as words."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def not_text(line: bytes, reason: str) -> str:
    """``reason``, or a better one: JSON has no byte that is zero, UTF-16 has many."""
    return UTF_16 if 0 in line else reason


def _is_deep(content: str) -> bool:
    if content.count("[") + content.count("{") <= MOST_DEPTH:
        return False
    # What is left between quotes that none escapes is outside and inside of strings by turns.
    outside = "".join(content.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    depth = 0
    for match in _BRACKETS.finditer(outside):
        start, end = match.span()
        depth += end - start if outside[start] in "[{" else start - end
        if depth > MOST_DEPTH:
            return True
    return False


def _has_two_texts(content: str, text_field: str) -> bool:
    if content.count(json.dumps(text_field, ensure_ascii=False)) < 2:
        return False
    pairs: list[tuple[str, Any]] = json.loads(content, parse_int=float, object_pairs_hook=list)
    texts = [value for name, value in pairs if name == text_field]
    return any(text != texts[0] for text in texts)
