"""How a model is told a conversation, and where its turns end: its tokenizer with a chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shear_lit.data.chat.imitation import special_names
from shear_lit.data.chat.messages import ASSISTANT, Conversation, UnusableConversation
from shear_lit.data.chat.rendering import Renderer
from shear_lit.data.chat.templates import OWN, find_template
from shear_lit.data.errors import DataError
from shear_lit.data.prepared.conversations import ChatTemplate
from shear_lit.data.tokens.tokenizer import TextTokenizer, tokenizer_of
from shear_lit.mistakes import Mistake

Messages = Sequence[Mapping[str, Any]]
_PROBE = Conversation([{"role": "user", "content": "first"}, {"role": ASSISTANT, "content": "second"}], [])


class ConversationError(Mistake):
    """A conversation that a template cannot express."""


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """A tokenizer with a template; text of messages is text, whatever it looks like."""

    tokenizer: TextTokenizer
    """What text is tokenised by."""
    renderer: Renderer
    """What makes tokens of conversations."""
    ends: frozenset[int]
    """The tokens that end an answer."""

    @property
    def template(self) -> ChatTemplate:
        """The template."""
        return self.renderer.template

    def prompt(self, messages: Messages) -> list[int]:
        """The tokens behind which a model is to answer the last message.

        Raises:
            ConversationError: the template cannot express the conversation.
        """
        try:
            found: list[int] = self.renderer.prompt(_conversation(messages)).tolist()
        except UnusableConversation as error:
            raise _refused(error) from error
        return found

    def answered(self, messages: Messages, answer: str) -> tuple[list[int], list[bool]]:
        """The tokens of a conversation with an answer to its last message, and which of them are that answer's.

        The token that ends it is one of these.

        Raises:
            ConversationError: the template cannot express the conversation.
        """
        whole = _conversation([*messages, {"role": ASSISTANT, "content": answer}])
        try:
            found = self.renderer.render(whole)
        except UnusableConversation as error:
            raise _refused(error) from error
        own = found.learned.copy()
        own[: found.answers[-1]] = False
        return found.ids.tolist(), own.tolist()


def read_chat_format(source: str, *, template: str | None = None) -> ChatFormat:
    """The tokenizer beside a model, with its own template or the one that is named.

    Raises:
        DataError: it has no tokenizer, no template, or one that cannot be used.
    """
    tokenizer = tokenizer_of(source)
    try:
        found = find_template(tokenizer, template or OWN)
        return chat_format(tokenizer, found)
    except DataError as error:
        if template is None:  # nobody named one: it is the model that has none, or a bad one
            raise DataError(f"{source!r}: its chat template: {error}", key="model.source") from error
        raise


def chat_format(tokenizer: TextTokenizer, template: ChatTemplate) -> ChatFormat:
    """A tokenizer with a template.

    Raises:
        DataError: the template cannot be used with it.
    """
    plain = Renderer(tokenizer.backend, template)
    # In a conversation that goes on, anything may be said: a typed name of a special token becomes text.
    anything = {*special_names(tokenizer.backend), *plain.delimiters}
    renderer = Renderer(tokenizer.backend, template, allowed=anything)
    return ChatFormat(tokenizer=tokenizer, renderer=renderer, ends=frozenset({_end(renderer)}))


def _end(renderer: Renderer) -> int:
    """The token behind an answer, which a model learns to write when it has said all."""
    found = renderer.render(_PROBE)
    return int(found.ids[found.learned.nonzero()[0][-1]])


def _conversation(messages: Messages) -> Conversation:
    return Conversation([dict(message) for message in messages], [])


def _refused(error: UnusableConversation) -> ConversationError:
    return ConversationError(f"the conversation cannot be told to the model: {error}.")
