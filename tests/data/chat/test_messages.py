"""Records of the published forms, and what is no conversation."""

import json

import pytest

from shear_lit.data.chat.messages import (
    Conversation,
    UnusableConversation,
    conversation_of_record,
    conversation_of_text,
    fields_of_conversations,
)
from shear_lit.data.chat.records import Conversations
from shear_lit.data.errors import DataError

USER, ASSISTANT = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
SYSTEM = {"role": "system", "content": "s"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 12, "b": [1.5]}'}}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, ASSISTANT]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, ASSISTANT], "other": 3},
        {"messages": json.dumps([USER, ASSISTANT])},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
        {"conversations": [{"from": "Human", "value": "x"}, {"from": "ChatGPT", "value": "y"}], "id": "1"},
        {"conversation": [USER, ASSISTANT]},
        {"instruction": "x", "input": "", "output": "y"},
        {"instruction": "x", "response": "y", "context": None},
    ],
)
def test_records_of_all_forms_are_the_same_conversation(record):
    found = conversation_of_record(record)
    assert found == Conversation([USER, ASSISTANT], [])
    assert conversation_of_text(found.as_text()) == found


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [SYSTEM, USER, ASSISTANT]},
        {"messages": [{"role": "developer", "content": "s"}, USER, ASSISTANT]},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}], "system": "s"},
        {
            "conversations": [
                {"from": n, "value": v} for n, v in (("system", "s"), ("human", "x"), ("bard", "y"))
            ]
        },
        {"instruction": "x", "output": "y", "system": "s"},
    ],
)
def test_a_system_message_comes_first(record):
    assert conversation_of_record(record).messages == [SYSTEM, USER, ASSISTANT]


def test_alpacas_input_follows_its_instruction():
    found = conversation_of_record({"instruction": "x", "input": "of this", "output": "y"})
    assert found.messages[0]["content"] == "x\n\nof this"


def test_a_named_field_is_taken_and_no_other():
    record = {"messages": [USER, {"role": "assistant", "content": "no"}], "talk": [USER, ASSISTANT]}
    assert conversation_of_record(record, "talk").messages == [USER, ASSISTANT]
    with pytest.raises(UnusableConversation, match="no conversation"):
        conversation_of_record({"messages": [USER, ASSISTANT]}, "talk")


def test_calls_of_tools_have_their_arguments_as_values():
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    answer = {"role": "tool", "content": "12", "tool_call_id": "1"}
    found = conversation_of_record(
        {"messages": [USER, message, answer, ASSISTANT], "tools": [{"type": "function"}]}
    )
    function = {"name": "f", "arguments": {"a": 12, "b": [1.5]}}
    assert found.messages[1]["tool_calls"] == [{"id": "1", "type": "function", "function": function}]
    assert type(found.messages[1]["tool_calls"][0]["function"]["arguments"]["a"]) is int
    assert found.messages[1]["content"] == "" and found.tools == [{"type": "function"}]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "no conversation in its fields"),
        ({"text": "x"}, "no conversation in its fields"),
        ({"messages": []}, "no conversation in its fields"),
        ({"messages": "x"}, "no conversation in its fields"),
        ({"messages": ["x", "y"]}, "no conversation in its fields"),
        ({"messages": [{"content": "x"}, ASSISTANT]}, "no conversation in its fields"),
        ({"messages": [USER]}, "no message of the assistant"),
        ({"messages": [USER, {"role": "critic", "content": "y"}]}, "a message of an unknown role"),
        ({"messages": [USER, {"role": 3, "content": "y"}]}, "a message of an unknown role"),
        ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, "a message whose content is no text"),
        ({"messages": [{"role": "user", "content": 3}, ASSISTANT]}, "a message whose content is no text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT]},
            "content is no text",
        ),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "empty document"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": [{"name": "f"}]}]}, "not of OpenAI's form"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": "f"}]}, "not of OpenAI's form"),
        ({"messages": [USER, ASSISTANT], "tools": {"f": 1}}, "not of OpenAI's form"),
        ({"messages": [USER, ASSISTANT | {"weight": 0.5}]}, "a weight other than 0 and 1"),
        ({"messages": [USER, ASSISTANT | {"content": "\ud800"}]}, "invalid UTF-8"),
        ({"instruction": "x"}, "no conversation in its fields"),
        ({"instruction": 3, "output": "y"}, "a message whose content is no text"),
    ],
)
def test_what_is_no_conversation_has_a_reason(record, reason):
    with pytest.raises(UnusableConversation, match=reason):
        conversation_of_record(record)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "malformed JSON"),
        (b"[1]", "no conversation in its fields"),
        (b"\xff", "invalid UTF-8"),
        (b"[" * 300, "JSON nested too deeply"),
        (b'{"messages": [], "messages": [1]}', "a field twice"),
        (b'{\x00"\x00', "UTF-16 or binary data instead of UTF-8"),
    ],
)
def test_lines_that_are_no_record_have_a_reason(line, reason):
    assert Conversations().text_of_line(line) == ("", reason)


def test_numbers_of_any_length_stop_nothing():
    line = b'{"id": ' + b"1" * 10_000 + b', "instruction": "x", "output": "y"}'
    assert conversation_of_text(Conversations().text_of_line(line)[0]).messages == [USER, ASSISTANT]


def test_columns_of_a_table_are_those_of_its_form():
    assert fields_of_conversations(["id", "messages", "text"]) == ["messages"]
    assert fields_of_conversations(["system", "conversations", "tools"]) == [
        "system",
        "conversations",
        "tools",
    ]
    assert fields_of_conversations(["output", "input", "instruction", "text"]) == [
        "output",
        "input",
        "instruction",
    ]
    assert fields_of_conversations(["talk", "messages"], "talk") == ["talk"]
    assert fields_of_conversations(["text"]) == fields_of_conversations(["messages"], "talk") == []
    with pytest.raises(DataError, match=r"messages_field='': 'a.parquet' has no such field; it has 'text'"):
        Conversations().columns("a.parquet", ["text"])
