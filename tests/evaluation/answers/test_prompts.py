"""Files of prompts: every form of a conversation, and one line for each that is none."""

import json

import pytest

from shear_lit.evaluation.answers.prompts import PromptError, read_prompts

ANSWERED = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "because"}]


def written(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return "prompts.jsonl", path


def test_conversations_of_every_form_are_a_prompt_and_its_reference(tmp_path):
    forms = [
        {"messages": ANSWERED},
        {"conversations": [{"from": "human", "value": "why"}, {"from": "gpt", "value": "because"}]},
        {"instruction": "why", "input": "", "output": "because"},
        {"prompt": "why", "reference": "because"},
    ]
    found = read_prompts(*written(tmp_path, *forms, "")).prompts
    assert {(prompt.messages[0]["content"], prompt.reference) for prompt in found} == {("why", "because")}
    assert [prompt.line for prompt in found] == [1, 2, 3, 4]
    (told,) = read_prompts(
        *written(tmp_path, {"system": "be brief", "prompt": "why", "reference": "so"})
    ).prompts
    assert [message["role"] for message in told.messages] == ["system", "user"]
    several = {"messages": [*ANSWERED, *ANSWERED]}
    (long,) = read_prompts(*written(tmp_path, several)).prompts
    assert len(long.messages) == 3
    assert len(read_prompts(*written(tmp_path, *forms), most=2).prompts) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: "),
        ("[1]", "no object of keys and values"),
        ({"messages": ANSWERED[:1]}, "no message of the assistant"),
        ({"messages": [*ANSWERED, ANSWERED[0]]}, "its last message is no assistant's"),
        ({"messages": ANSWERED[1:]}, "nothing is asked before the reference"),
        ({"prompt": "why"}, "no conversation in its fields"),
        ({"prompt": "why", "reference": " "}, "line 2: "),
        ({"messages": [{"role": "oracle", "content": "so"}, *ANSWERED]}, "unknown role"),
        ("[" * 100_000, "line 2: "),
    ],
)
def test_line_that_is_no_prompt_is_named(tmp_path, line, words):
    with pytest.raises(PromptError, match=words) as found:
        read_prompts(*written(tmp_path, {"messages": ANSWERED}, line))
    assert str(found.value).startswith("prompts='prompts.jsonl', line 2: ") and "\n" not in str(found.value)


def test_file_that_is_not_there_or_empty_is_one_line(tmp_path):
    with pytest.raises(PromptError, match="is no file"):
        read_prompts("nowhere", tmp_path / "nowhere")
    with pytest.raises(PromptError, match="has no line"):
        read_prompts(*written(tmp_path, ""))
