"""What a manifest says of data that is made of conversations."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template, with all that decides what it writes besides the messages."""

    name: str
    """``tokenizer``, that of one which comes with this package, or the file that it was read from."""
    source: str
    """It, in Jinja."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """The special tokens that it may name, such as ``bos_token``."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Values that it is given besides, such as ``enable_thinking``."""

    @cached_property
    def sha256(self) -> str:
        """The hash of its source."""
        return hashlib.sha256(self.source.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ChatRecord:
    """What made tokens of conversations."""

    template: ChatTemplate
    """What made a text of messages."""
    sha256: str
    """The hash of its source."""
    messages_field: str = ""
    """The field that held the messages; empty: that of the form which a record had."""
    allowed: tuple[str, ...] = ()
    """Special tokens and delimiters of the template that messages may have as text."""
