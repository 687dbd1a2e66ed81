"""Documents: what counts as one, and what tells two of them apart.

Worker processes import this module: it needs the standard library alone.
"""

import hashlib
import json
from typing import Any

EMPTY, INVALID, MALFORMED, TOO_LARGE = (
    "empty document",
    "invalid UTF-8",
    "malformed JSON",
    "larger than max_document_bytes",
)
"""Reasons for which a document cannot be used; the fourth depends on a setting."""
HASH_BYTES = 16
"""Bytes of the hash of a document."""
PLACES = 1 << 64
"""How many places a hash can name; see ``document_hash``."""


def missing(text_field: str) -> str:
    """The reason for which a record without text is not used."""
    return f"no text in field {text_field!r}"


def text_of_record(line: bytes, text_field: str) -> tuple[str, str]:
    """The text of a line of JSON, or an empty one and the reason why it has none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "", INVALID
    except (ValueError, RecursionError):  # the first also for a number of thousands of digits
        return "", MALFORMED
    text = record.get(text_field) if isinstance(record, dict) else None
    return checked(text, missing(text_field))


def text_of_bytes(content: bytes) -> tuple[str, str]:
    """The text that ``content`` encodes, or an empty one and the reason why there is none."""
    try:
        return checked(content.decode("utf-8"), INVALID)
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
    """128 bits that are the same for texts that differ only in case and white space.

    The first 64 of them, the most significant first, are the document's **place**: it decides its split.
    """
    folded = " ".join(text.casefold().split())
    return hashlib.sha256(folded.encode()).digest()[:HASH_BYTES]


def place_of(text: str) -> float:
    """The place of a document, a fraction in [0, 1]."""
    return int.from_bytes(document_hash(text)[:8]) / PLACES


def listed(reasons: dict[str, int]) -> str:
    """Rejected documents by reason, as words."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
