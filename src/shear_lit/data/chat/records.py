"""Conversations as the documents of records: what reading asks of each kind of input."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shear_lit.data.chat.messages import (
    NO_CONVERSATION,
    UnusableConversation,
    conversation_of_record,
    fields_of_conversations,
    parsed_record,
)
from shear_lit.data.errors import DataError
from shear_lit.data.text.documents import INVALID, MALFORMED, TOO_LARGE, json_of_line, not_text

_FORMS = "messages (role, content), conversations (from, value), or instruction and output"


@dataclass(frozen=True)
class Conversations:
    """The conversation of a record is the document, as ``Conversation.as_text`` writes it."""

    field: str = ""
    """The field with its messages; empty: that of the form which its fields are of."""

    def text_of_line(self, line: bytes) -> tuple[str, str]:
        """As in ``Records``."""
        content, reason = json_of_line(line)
        if reason:
            return "", reason
        try:
            return self.text_of_row(parsed_record(content))
        except UnusableConversation as error:
            reason = str(error)
            return "", not_text(line, reason) if reason == MALFORMED else reason

    def text_of_row(self, row: Any) -> tuple[str, str]:
        """As in ``Records``; what is no group of fields is no conversation."""
        if not isinstance(row, Mapping):
            return "", NO_CONVERSATION
        try:
            return conversation_of_record(row, self.field).as_text(), ""
        except UnusableConversation as error:
            return "", str(error)

    def texts_of_batch(self, batch: Any, limit: int) -> Iterator[tuple[str, str]]:
        """As in ``Records``; cells may be lists and groups of fields."""
        for row in _rows(batch):
            text, reason = ("", INVALID) if row is None else self.text_of_row(row)
            yield ("", TOO_LARGE) if len(text.encode()) > limit else (text, reason)

    def columns(self, name: str, names: Iterable[str]) -> list[str]:
        """As in ``Records``."""
        there = list(names)
        if columns := fields_of_conversations(there, self.field):
            return columns
        has = ", ".join(map(repr, there)) or "none"
        raise DataError(
            f"{self.field!r}: {name!r} has no such field; it has {has}. Name the one that holds the messages, or none "
            f"for {_FORMS}.",
            key="messages_field",
        )

    def check_types(self, name: str, schema: Any) -> None:
        """As in ``Records``: what cells hold is seen when they are read."""

    def check_whole(self, name: str, domain: str) -> None:
        """As in ``Records``."""
        raise DataError(
            f"{name!r} has no records, and conversations are read from records ({_FORMS}). Name a file of JSON lines, "
            "a table, or a data set of the hub.",
            key=f"domains.{domain}",
        )


def _rows(batch: Any) -> Iterator[Any]:
    """The rows of a batch, none for one that is no UTF-8; offsets from a file are checked before they are followed."""
    import pyarrow as arrow  # there is a batch: it is imported already

    try:
        batch.validate(full=True)
        yield from batch.to_pylist()
        return
    except arrow.ArrowInvalid:  # which row it is, the rows alone say
        pass
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        try:
            row.validate(full=True)
        except arrow.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise
            yield None
        else:
            yield from row.to_pylist()
