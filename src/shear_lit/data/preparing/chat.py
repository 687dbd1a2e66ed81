"""A run on conversations: its template, tried before the first of them is read, and whether it adds to the same."""

from pathlib import Path
from typing import Any

from shear_lit.data.chat.templates import find_template
from shear_lit.data.errors import DataError
from shear_lit.data.prepared.conversations import ChatRecord
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.preparing.chat_settings import ChatSettings
from shear_lit.data.preparing.job import ChatJob
from shear_lit.data.tokens.tokenizer import TextTokenizer


def chat_job(settings: ChatSettings, tokenizer: TextTokenizer, work: Path) -> ChatJob:
    """A run on conversations, whose template has written a plain one.

    Raises:
        DataError: there is no such template, or it cannot be used with the tokenizer.
    """
    from shear_lit.data.chat.rendering import Renderer

    template = find_template(tokenizer, settings.template, settings.variables)
    allowed = tuple(sorted(set(settings.allowed)))
    Renderer(tokenizer.backend, template, allowed=allowed)
    made_by = ChatRecord(
        template=template, sha256=template.sha256, messages_field=settings.messages_field, allowed=allowed
    )
    return ChatJob(settings=settings, tokenizer=tokenizer.record(), work=work, made_by=made_by)


def check_same_conversations(earlier: Manifest, made_by: ChatRecord | None, output: str) -> None:
    """Refuse to add conversations to data that is not made of such in the same way, or text to conversations.

    Raises:
        DataError: it is so.
    """
    there = earlier.chat
    if (there is None) != (made_by is None):
        words = {True: "text", False: "conversations"}
        raise DataError(
            f"{output!r} holds {words[there is None]}, to which no {words[made_by is None]} can be added. Prepare them "
            "into another directory.",
            key="output",
        )
    if there is None or made_by is None:
        return
    for key, asked, found in _decisions(made_by, there):
        if asked != found:
            raise DataError(
                f"{asked!r}: what is in output={output!r} was prepared with {found!r}, and conversations can only be "
                f"added in the same way. Use {key}={found!r}, or prepare into another directory.",
                key=key,
            )


def _decisions(made_by: ChatRecord, there: ChatRecord) -> list[tuple[str, Any, Any]]:
    """What decides the tokens of conversations, by key; the name of a template does not."""
    ours, theirs = made_by.template, there.template
    same = made_by.sha256 == there.sha256
    return [
        ("template", ours.name, ours.name if same else f"{theirs.name} ({there.sha256[:12]})"),
        ("template", ours.special_tokens, theirs.special_tokens),
        ("variables", ours.variables, theirs.variables),
        ("allowed", list(made_by.allowed), list(there.allowed)),
        ("messages_field", made_by.messages_field, there.messages_field),
    ]
