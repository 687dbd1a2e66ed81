"""Conversations as documents of tokens: whole where they fit into a sequence, otherwise cut where a question begins.

Each part is a conversation of its own for the template, and begins with the system message of the whole: what a model
is taught is always what it would be asked. An exchange, a question with its answer and what tools say in between, that
is longer than a sequence is of no use, and so is its conversation.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from shear_lit.data.chat.marking import answers_of
from shear_lit.data.chat.messages import ASSISTANT, Conversation, UnusableConversation, conversation_of_text
from shear_lit.data.chat.rendering import Rendered, Renderer
from shear_lit.data.prepared.conversations import ChatRecord
from shear_lit.data.tokens.encoding import Tokenised
from shear_lit.data.tokens.spools import ANSWERS, BEGINS, LEARNED

TOO_LONG = "a question and its answer longer than sequence_length"
"""The reason for a conversation that cannot be cut."""


class ChatEncoder:
    """Makes tokens of conversations."""

    def __init__(self, file: Path, made_by: ChatRecord, *, length: int) -> None:
        """Load the tokenizer of ``file``, a ``tokenizer.json``; no part is longer than ``length`` tokens.

        Raises:
            DataError: the template cannot be used with the tokenizer.
        """
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._renderer = Renderer(tokenizer, made_by.template, allowed=made_by.allowed)
        self._length = length

    def encode(self, texts: Iterable[str]) -> Iterator[Tokenised]:
        """The tokens of each conversation, which is text as ``Conversation.as_text`` writes it."""
        for text in texts:
            try:
                parts = self.parts(conversation_of_text(text))
            except UnusableConversation as error:
                yield Tokenised(np.empty(0, np.uint32), reason=str(error))
            else:
                yield Tokenised(
                    np.concatenate([part.ids for part in parts]), np.concatenate([_flags(p) for p in parts])
                )

    def parts(self, conversation: Conversation) -> list[Rendered]:
        """The parts of a conversation, each of which fits into a sequence; one, where the whole does.

        Raises:
            UnusableConversation: it cannot be rendered, or an exchange does not fit.
        """
        whole = self._renderer.render(conversation)
        if len(whole.ids) <= self._length:
            return [whole]
        # A question at the end that has no answer is of no use once it is a part of its own.
        answered = conversation.messages[: answers_of(conversation)[-1] + 1]
        conversation = Conversation(answered, conversation.tools)
        head, exchanges = _exchanges(conversation)
        parts, begin = list[Rendered](), 0
        while begin < len(exchanges):
            part, begin = self._longest(conversation, head, exchanges, begin)
            if part.learned.any():  # its answers may all be of weight 0
                parts.append(part)
        if not parts:
            raise UnusableConversation(TOO_LONG)
        return parts

    def _longest(
        self, conversation: Conversation, head: int, exchanges: list[int], begin: int
    ) -> tuple[Rendered, int]:
        """The longest part from exchange number ``begin`` on that fits, and the number of the first one behind it."""
        messages, ends = conversation.messages, [*exchanges[1:], len(conversation.messages)]
        low, high, found = begin, len(exchanges), None
        while low < high:  # a part with one more exchange is longer
            middle = (low + high) // 2
            own = [*messages[:head], *messages[exchanges[begin] : ends[middle]]]
            part = self._renderer.render(Conversation(own, conversation.tools))
            if len(part.ids) <= self._length:
                low, found = middle + 1, part
            else:
                high = middle
        if found is None:
            raise UnusableConversation(TOO_LONG)
        return found, low


def _exchanges(conversation: Conversation) -> tuple[int, list[int]]:
    """How many system messages come first, and where each exchange begins."""
    roles = [message["role"] for message in conversation.messages]
    head = next((number for number, role in enumerate(roles) if role != "system"), len(roles))
    behind_answers = [
        n for n in range(head + 1, len(roles)) if roles[n] == "user" and roles[n - 1] == ASSISTANT
    ]
    return head, [head, *behind_answers]


def _flags(part: Rendered) -> "np.typing.NDArray[np.uint8]":
    flags = part.learned * np.uint8(LEARNED)
    flags[0] |= BEGINS
    flags[part.answers] |= ANSWERS
    return flags
