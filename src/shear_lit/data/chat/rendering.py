"""A conversation as the ids of its tokens, and which of them the assistant is to learn.

The text is what transformers' renderer makes of the template. From ``marking`` it is known which of its characters are
the template's: special tokens are looked for in these alone. In the tokenizer that is used here they have names of
plane 15, which no message may have, and the template's are written so: text of a message gives none of them, whatever
it is, and all other text is tokenised as it stands between them. The ids are those that transformers'
``apply_chat_template`` gives for messages that have no name of a special token.

The assistant's are the tokens of what a model writes when it is asked: from where the template asks for an answer
(``add_generation_prompt``, or where the message before ends) to the first special token behind the message, at which
generation stops, and that one too. A token that reaches over the beginning belongs to the answer.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shear_lit.data.chat.imitation import (
    Imitations,
    any_of,
    delimiters,
    other_names,
    special_names,
    unknown_id,
)
from shear_lit.data.chat.marking import (
    MOST_MESSAGES,
    Marked,
    Region,
    answers_of,
    is_private,
    marked,
    moved,
    moved_back,
    read_marked,
    strings_of,
)
from shear_lit.data.chat.messages import ASSISTANT, Conversation, UnusableConversation
from shear_lit.data.errors import DataError
from shear_lit.data.prepared.conversations import ChatTemplate
from shear_lit.data.tokens.encoder import renamed

NO_PRIVATE = "characters of the planes for private use"
"""The reason for text that could be taken for marks."""
TOO_MANY = f"{MOST_MESSAGES:,} messages or more"
"""The reason for a conversation that cannot be marked."""
CHANGED = "the template changes its text in a way that cannot be followed"
"""The reason where nothing tells which characters are of messages."""
LEFT_OUT = "the template leaves out a message"
"""The reason for a message of which nothing is written."""
LEFT_OUT_TOOLS = "the template leaves out tools, tool calls or reasoning"
"""The reason for what a template has no way to write."""
NOT_ASKED = "the template begins an answer otherwise than it asks for one"
"""The reason where it is not known from where on the assistant writes."""
NO_END = "the template writes no special token behind an answer"
"""The reason where nothing would tell a model to stop."""
OTHER_SPECIAL = "the tokenizer finds other special tokens than the template writes"
"""The reason where special tokens depend on the text beside them."""
REFUSED = "the template refuses it"
"""The reason where a template raises an error."""

_CONSTANT = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_PROBE = [("user", "first"), (ASSISTANT, "second"), ("user", "third"), (ASSISTANT, "fourth")]
_SYSTEM = ("system", "zeroth")


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens."""

    ids: NDArray[np.uint32]
    """Their ids, UInt32[tokens]."""
    learned: NDArray[np.bool_]
    """Which of them are the assistant's, Bool[tokens]: its message, and the token that ends it."""
    answers: list[int]
    """The first token of each of the assistant's messages."""
    text: str
    """The text that they are of."""


class Renderer:
    """Renders conversations by one template for one tokenizer."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, *, allowed: Collection[str] = ()
    ) -> None:
        """Take both, and try the template on a plain conversation.

        Args:
            tokenizer: What the text is tokenised by, as ``TextTokenizer.backend``.
            template: What makes a text of messages.
            allowed: Special tokens and delimiters that messages may have as text.

        Raises:
            DataError: the template cannot be used with this tokenizer.
        """
        self.template = template
        """What makes a text of messages."""
        self._special = special_names(tokenizer)
        self._any_special = any_of(self._special)
        self._tokenizer = renamed(tokenizer, moved)
        unknown = unknown_id(tokenizer)
        self._ids = np.array([index for index in self._special.values() if index != unknown], dtype=np.int64)
        plain = delimiters(self._probed(), self._any_special, other_names(tokenizer))
        self.delimiters = frozenset(plain)
        """What in the template's text tells its parts apart, and is no special token."""
        self._imitations = Imitations(self._special, plain, allowed)

    def text(self, conversation: Conversation, *, asks: bool = False) -> str:
        """The text that the template makes of a conversation; ``asks``: with that which asks for an answer.

        Raises:
            UnusableConversation: the template refuses it.
        """
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self.template
        messages = [{k: v for k, v in m.items() if k != "weight"} for m in conversation.messages]
        try:
            rendered: Any = render_jinja_template(
                conversations=[messages],
                tools=conversation.tools or None,
                chat_template=template.source,
                add_generation_prompt=asks,
                **{**template.special_tokens, **template.variables},
            )
        except jinja2.TemplateError as error:
            said = str(error.message or "")
            known = f" ({said})" if said and said in template.source else ""
            raise UnusableConversation(REFUSED + known) from error
        except Exception as error:  # what a template does to values that it did not expect
            raise UnusableConversation(f"{REFUSED} ({type(error).__name__})") from error
        return str(rendered[0][0])

    def render(self, conversation: Conversation) -> Rendered:
        """The tokens of a conversation.

        Raises:
            UnusableConversation: it has text that imitates the template's, or the template cannot express it.
        """
        found, shown = self._usable(conversation)
        spans = [self._span(shown, found, number) for number in answers_of(conversation)]
        weights = [conversation.messages[number].get("weight", 1) for number in answers_of(conversation)]
        return self._tokenised(found, spans, weights)

    def prompt(self, conversation: Conversation) -> NDArray[np.uint32]:
        """The ids of the tokens behind which the assistant is to answer; as ``render``."""
        _, shown = self._usable(conversation)
        return self._tokenised(read_marked(self.text(shown, asks=True)), [], []).ids

    def _usable(self, conversation: Conversation) -> tuple[Marked, Conversation]:
        """As ``_marked``, of a conversation without imitations and of which all is written."""
        texts, others = strings_of(conversation)
        if len(conversation.messages) >= MOST_MESSAGES:
            raise UnusableConversation(TOO_MANY)
        private = any(map(is_private, (*texts, *others)))
        if reason := NO_PRIVATE if private else self._imitations.reason(texts, others):
            raise UnusableConversation(reason)
        found, shown = self._marked(conversation, texts)
        self._check_whole(conversation, found)
        return found, shown

    def _marked(self, conversation: Conversation, texts: Sequence[str]) -> tuple[Marked, Conversation]:
        """The text of a conversation, marked, and the conversation with the marks that it was made of."""
        text, shown = self.text(conversation), marked(conversation)
        if (found := read_marked(self.text(shown))).text == text:
            return found, shown
        # The template may look for a text in messages: what it names is left as it is, if it is no special token.
        kept = [constant for constant in self._constants if any(constant in one for one in texts)]
        if kept and not self._imitations.has_special(texts):
            shown = marked(conversation, kept)
            if (found := read_marked(self.text(shown))).text == text:
                return found, shown
        raise UnusableConversation(CHANGED)

    @cached_property
    def _constants(self) -> list[str]:
        """Strings in the source of the template that it may look for in messages."""
        found = {a or b for a, b in _CONSTANT.findall(self.template.source)}
        return sorted(c for c in found if not c.isalnum() and c.strip() and not self._any_special.search(c))

    def _check_whole(self, conversation: Conversation, found: Marked) -> None:
        """Refuse what a template writes in part."""
        for number, message in enumerate(conversation.messages):
            if found.region(number) is None and (message["content"].strip() or message.get("tool_calls")):
                raise UnusableConversation(LEFT_OUT)
        if any(self._is_same(less, found.text) for less in _parts_less(conversation)):
            raise UnusableConversation(LEFT_OUT_TOOLS)

    def _is_same(self, conversation: Conversation, text: str) -> bool:
        try:
            return self.text(conversation) == text
        except UnusableConversation:
            return False

    def _span(self, shown: Conversation, found: Marked, number: int) -> tuple[int, int]:
        """From which character to which one the text is what the assistant writes as message ``number``."""
        region = found.region(number)
        if region is None:
            raise UnusableConversation(LEFT_OUT_TOOLS)
        return self._start(shown, found, region), self._end(shown, found, region)

    def _start(self, shown: Conversation, found: Marked, region: Region) -> int:
        before = found.before(region)
        if not region.message:
            return region.start  # a conversation that begins with an answer: nothing asks for it
        asked = self._tail(shown, region.message, asks=True)
        if asked.startswith(before):  # it asks by the beginning of an answer, which it then leaves out
            return region.start
        if not before.startswith(asked):
            raise UnusableConversation(NOT_ASKED)
        more = before[len(asked) :]
        if more.strip() and asked == self._tail(shown, region.message, asks=False):
            return region.start  # it knows no asking, and writes a header of its own before an answer
        return region.start - len(more)

    def _end(self, shown: Conversation, found: Marked, region: Region) -> int:
        end = self._any_special.search(behind := found.behind(region))
        if end is None:
            raise UnusableConversation(NO_END)
        if region.message + 1 < len(shown.messages):
            ended = self._tail(shown, region.message + 1, asks=False)
            if not ended.startswith(behind[: end.end()]):  # it is the next message's
                raise UnusableConversation(NO_END)
        return region.end + end.end()

    def _tail(self, shown: Conversation, messages: int, *, asks: bool) -> str:
        """What the template writes behind the last of the first messages of a conversation alone."""
        first = Conversation(shown.messages[:messages], shown.tools)
        return read_marked(self.text(first, asks=asks)).tail()

    def _tokenised(self, found: Marked, spans: Sequence[tuple[int, int]], weights: Sequence[int]) -> Rendered:
        """The tokens of a marked text, in which the template's special tokens have the names that they have here."""
        parts, before, special = [], 0, 0
        for name in self._any_special.finditer(found.moved):
            hidden = moved(name[0]) if len(name[0]) > 1 else name[0]
            parts += [moved_back(found.moved[before : name.start()]), hidden]
            before, special = name.end(), special + 1
        text = "".join([*parts, moved_back(found.moved[before:])])
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.uint32)
        if int(np.isin(ids, self._ids).sum()) != special:
            raise UnusableConversation(OTHER_SPECIAL)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        learned, answers = np.zeros(len(ids), dtype=np.bool_), []
        for (start, end), weight in zip(spans, weights, strict=True):
            # A token of no characters, a space that the tokenizer adds, belongs to what follows it.
            own = (offsets[:, 0] < end) & ((offsets[:, 1] > start) | (offsets[:, 0] >= start))
            answers.append(int(own.argmax()))
            learned |= own & bool(weight)
        return Rendered(ids, learned, answers, found.text)

    def _probed(self) -> list[str]:
        """What the template writes around the messages of plain conversations, with and without a system message."""
        literals: list[str] = []
        for roles in ([_SYSTEM, *_PROBE], _PROBE):
            conversation = Conversation([{"role": role, "content": text} for role, text in roles], [])
            try:
                found, shown = self._marked(conversation, [])
                self._check_whole(conversation, found)
                for number in answers_of(conversation):
                    self._span(shown, found, number)
            except UnusableConversation as error:
                if roles is _PROBE:
                    raise self._unusable(str(error)) from error
                continue  # some know no system messages
            literals += [found.before(region) for region in found.regions] + [found.tail()]
        return literals

    def _unusable(self, reason: str) -> DataError:
        names = ", ".join(sorted(self._special)[:8]) or "none"
        return DataError(
            f"{self.template.name!r}, tried on a question and its answer: {reason}. The tokenizer's special tokens are "
            f"{names}. Choose a template whose turns end with one of them.",
            key="template",
        )


def _parts_less(conversation: Conversation) -> Iterator[Conversation]:
    """A conversation without its tools, without its tool calls, and without the reasoning behind the last question."""
    messages, tools = conversation
    if tools:
        yield Conversation(messages, [])
    if any("tool_calls" in message for message in messages):
        yield Conversation([_less(message, "tool_calls") for message in messages], tools)
    last = max((n for n, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if any("reasoning_content" in message for message in messages[last + 1 :]):
        after = [_less(message, "reasoning_content") for message in messages[last + 1 :]]
        yield Conversation([*messages[: last + 1], *after], tools)


def _less(message: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != name}
