"""Conversations: what a record of each published form says, in one form, and that form as text.

OpenAI's ``messages`` (``role``, ``content``), ShareGPT's ``conversations`` (``from``, ``value``), Alpaca's
``instruction``, ``input`` and ``output``. Which one a record is, its fields say. As text, a conversation is JSON with
the same keys in the same order whatever it came from, so that duplicates and splits are those of any other document.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shear_lit.data.text.documents import EMPTY, INVALID, MALFORMED

LISTS = ("messages", "conversations", "conversation")
"""Fields that hold the messages of a conversation, where none is named."""
INSTRUCTIONS, ANSWERS = ("instruction",), ("output", "response")
"""Fields of a record of Alpaca's form: what is asked, and what the assistant answers."""
CONTEXTS, SYSTEMS = ("input", "context"), ("system", "system_prompt")
"""Fields that such a record may have besides: what the instruction is about, and a system message."""

ASSISTANT = "assistant"
"""The role whose tokens are learned."""
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys((ASSISTANT, "gpt", "chatgpt", "bing", "bard", "model", "bot"), ASSISTANT),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}
"""What publishers call a role, in lower case, and what templates do."""

TWICE = "a field twice"
"""The reason for a record that says two things in one field."""
NO_CONVERSATION = "no conversation in its fields"
"""The reason for a record that is of none of the forms."""
NO_ANSWER = "no message of the assistant"
"""The reason for a conversation in which there is nothing to learn."""
UNKNOWN_ROLE = "a message of an unknown role"
"""The reason for a role that is none of ``ROLES``."""
NO_TEXT = "a message whose content is no text"
"""The reason for pictures, sound, numbers, or nothing where text is expected."""
NO_CALLS = "tool calls or tools that are not of OpenAI's form"
"""The reason for calls that no template could be given."""
NO_WEIGHT = "a weight other than 0 and 1"
"""The reason for OpenAI's ``weight`` of a message with another value than it may have."""

_MOST_DIGITS = 400


class Conversation(NamedTuple):
    """One conversation, in the form that templates are given."""

    messages: list[dict[str, Any]]
    """``role``, of the values of ``ROLES``, and ``content``; ``tool_calls``, ``tool_call_id``, ``name``,
    ``reasoning_content`` and ``weight`` where there are any."""
    tools: list[Any]
    """The tools that are described to the assistant, as JSON schemas; often none."""

    def as_text(self) -> str:
        """What ``conversation_of_text`` reads."""
        content = {"messages": self.messages} | ({"tools": self.tools} if self.tools else {})
        return json.dumps(content, ensure_ascii=False)

    def as_lines(self) -> str:
        """What it says, as lines: those of two conversations that say the same differ in white space and case alone."""
        lines = []
        for message in self.messages:
            rest = {name: value for name, value in message.items() if name not in ("role", "content")}
            lines += [message["role"], message["content"], *([json.dumps(rest)] if rest else [])]
        return "\n".join([*lines, *([json.dumps(self.tools)] if self.tools else [])])


class UnusableConversation(ValueError):
    """A record that is no conversation, or one that cannot be used; its text is the reason, the same for all alike."""


def conversation_of_text(text: str) -> Conversation:
    """What ``Conversation.as_text`` wrote."""
    content = json.loads(text)
    return Conversation(content["messages"], content.get("tools", []))


def conversation_of_record(record: Mapping[str, Any], field: str = "") -> Conversation:
    """The conversation that a record holds, in ``field`` or, where that is empty, in the one that its form has.

    Raises:
        UnusableConversation: there is none, or none that templates could be given.
    """
    entries = _listed(record, field)
    messages = _alpaca(record) if entries is None else [_message(entry) for entry in entries]
    system = _first(record, SYSTEMS)
    if system and messages[:1] and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": _text(system)})
    answers = [message for message in messages if message["role"] == ASSISTANT]
    if not answers:
        raise UnusableConversation(NO_ANSWER)
    if not all(message["content"].strip() or message.get("tool_calls") for message in answers):
        raise UnusableConversation(EMPTY)
    return _encodable(Conversation(messages, _tools(record)))


def fields_of_conversations(names: Sequence[str], field: str = "") -> list[str]:
    """The columns of a table that hold its conversations; none where the table has no such columns."""
    if field:
        return [name for name in names if name in (field, *SYSTEMS, "tools")] if field in names else []
    listed = [name for name in LISTS if name in names]
    if listed:
        return [name for name in names if name in (listed[0], *SYSTEMS, "tools")]
    if any(name in names for name in INSTRUCTIONS) and any(name in names for name in ANSWERS):
        return [name for name in names if name in (*INSTRUCTIONS, *ANSWERS, *CONTEXTS, *SYSTEMS)]
    return []


def _listed(record: Mapping[str, Any], field: str) -> Sequence[Any] | None:
    """The messages of a record; none where it is not of a form that lists them."""
    found = record.get(field) if field else _first(record, LISTS)
    if isinstance(found, str) and found.lstrip().startswith("["):
        found = parsed_record(found)
    if isinstance(found, Sequence) and not isinstance(found, str) and len(found):
        return found
    if field:
        raise UnusableConversation(NO_CONVERSATION)
    return None


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _message(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise UnusableConversation(NO_CONVERSATION)
    role, content = (_first(entry, names) for names in (("role", "from"), ("content", "value")))
    if role is None:
        raise UnusableConversation(NO_CONVERSATION)
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise UnusableConversation(UNKNOWN_ROLE)
    calls = entry.get("tool_calls")
    message: dict[str, Any] = {"role": known, "content": "" if content is None and calls else _text(content)}
    if calls:
        message["tool_calls"] = _calls(calls)
    for name in ("tool_call_id", "name", "reasoning_content"):
        if isinstance(value := entry.get(name), str) and value:
            message[name] = value
    if (weight := entry.get("weight")) is not None and known == ASSISTANT:
        if weight not in (0, 1):
            raise UnusableConversation(NO_WEIGHT)
        message["weight"] = int(weight)
    return message


def _text(content: Any) -> str:
    """The text of a message, which some publishers write as a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and content and all(_is_text_part(part) for part in content):
        return "".join(part["text"] for part in content)
    raise UnusableConversation(NO_TEXT)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _alpaca(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked, context, answer = (_first(record, names) for names in (INSTRUCTIONS, CONTEXTS, ANSWERS))
    if asked is None or answer is None:
        raise UnusableConversation(NO_CONVERSATION)
    question = "\n\n".join(part for part in (_text(asked), _text(context or "")) if part)
    return [{"role": "user", "content": question}, {"role": ASSISTANT, "content": _text(answer)}]


def _calls(calls: Any) -> list[dict[str, Any]]:
    """Calls of tools, whose arguments OpenAI writes as JSON inside a string, and templates want as what it says."""
    found = []
    for call in calls if isinstance(calls, Sequence) and not isinstance(calls, str) else [None]:
        if not isinstance(call, Mapping):
            raise UnusableConversation(NO_CALLS)
        function = call.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UnusableConversation(NO_CALLS)
        arguments = function.get("arguments") or {}
        arguments = parsed_record(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(arguments, Mapping):
            raise UnusableConversation(NO_CALLS)
        one = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}
        found.append(({"id": call["id"]} if isinstance(call.get("id"), str) else {}) | one)
    return found


def _tools(record: Mapping[str, Any]) -> list[Any]:
    tools = record.get("tools")
    if isinstance(tools, str) and tools.strip():
        tools = parsed_record(tools)
    if not tools:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UnusableConversation(NO_CALLS)
    return tools


def parsed_record(content: str) -> Any:
    """What JSON says; whole numbers stay such, but for those of so many digits that Python refuses them.

    Raises:
        UnusableConversation: it is no JSON, is nested too deeply, or says two things in one field.
    """
    try:
        return json.loads(content, parse_int=_whole_number, object_pairs_hook=_object)
    except UnusableConversation:
        raise
    except (ValueError, RecursionError) as error:
        raise UnusableConversation(MALFORMED) from error


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) and any(found[name] != value for name, value in pairs):
        raise UnusableConversation(TWICE)
    return found


def _encodable(conversation: Conversation) -> Conversation:
    """A conversation whose text can be written."""
    try:
        conversation.as_text().encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate, written as an escape
        raise UnusableConversation(INVALID) from error
    except (TypeError, ValueError) as error:  # what a table holds besides text: times, bytes
        raise UnusableConversation(NO_CALLS) from error
    return conversation
