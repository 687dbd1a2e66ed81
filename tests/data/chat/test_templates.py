"""Which template is taken, and that those which come along write what is published."""

import json
from pathlib import Path

import pytest

from shear_lit.data.chat.messages import Conversation
from shear_lit.data.chat.templates import built_in_names, find_template
from shear_lit.data.errors import DataError
from shear_lit.data.preparing import chat_settings
from shear_lit.data.tokens.tokenizer import load_tokenizer
from tests.data.chat.subjects import TEMPLATES, renderer, text_tokenizer, write_tokenizer

ROOT = Path(__file__).parents[3]
TALK = Conversation(
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
        {"role": "assistant", "content": "D"},
    ],
    [],
)
HEAD = "You are a helpful assistant. Write a response that appropriately completes the request.\n\n"
PUBLISHED = {
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\nD<|im_end|>\n"
    ),
    "llama-2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST] D </s>",
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "A<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nC<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nD<|eot_id|>"
    ),
    "mistral": "<s>[INST] S\n\nA [/INST] B</s>[INST] C [/INST] D</s>",
    "gemma": (
        "<s><start_of_turn>user\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n"
        "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\nD<end_of_turn>\n"
    ),
    "zephyr": "<|system|>\nS</s>\n<|user|>\nA</s>\n<|assistant|>\nB</s>\n<|user|>\nC</s>\n<|assistant|>\nD</s>\n",
    "vicuna": "<s>S USER: A ASSISTANT: B</s>USER: C ASSISTANT: D</s>",
    "alpaca": (
        "<s>S\n\n### Instruction:\nA\n\n### Response:\nB</s>\n\n### Instruction:\nC\n\n### Response:\nD</s>\n\n"
    ),
    "sheared-llama": "<s>S\n\n### Input:\nA\n\n### Response:B</s>\n\n### Input:\nC\n\n### Response:D</s>\n\n",
}
"""What each source publishes, with ``<s>`` and ``</s>`` for the tokens that begin and end a text."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_template_that_comes_along_writes_what_is_published(name):
    talk = TALK if name != "gemma" else Conversation(TALK.messages[1:], [])
    own = renderer("bytes", name)
    assert own.text(talk) == PUBLISHED[name]
    asked = own.text(Conversation(talk.messages[:-1], []), asks=True)
    assert PUBLISHED[name].startswith(asked) and PUBLISHED[name][len(asked) :].lstrip().startswith("D")


def test_a_first_question_is_asked_as_the_authors_ask_it():
    question = Conversation([{"role": "user", "content": "A"}], [])
    assert renderer("bytes", "sheared-llama").text(question) == f"<s>{HEAD}### Input:\nA\n\n### Response:"


def test_all_that_come_along_are_named_where_they_are_listed():
    names = built_in_names()
    assert names == sorted(PUBLISHED) == sorted(TEMPLATES)
    listed = Path(chat_settings.__file__).read_text(encoding="utf-8")
    assert f"one of {', '.join(names)};" in listed
    page = (ROOT / "docs" / "tune.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in names)


@pytest.mark.parametrize(
    "content",
    [
        {"chat_template": "{{ 'own' }}"},
        {
            "chat_template": [
                {"name": "tools", "template": "no"},
                {"name": "default", "template": "{{ 'own' }}"},
            ]
        },
        {"chat_template": {"tools": "no", "default": "{{ 'own' }}"}},
    ],
)
def test_the_tokenizers_own_is_found_in_its_config(tmp_path, content):
    found = find_template(with_config(tmp_path, content))
    assert (found.name, found.source) == ("tokenizer", "{{ 'own' }}")
    assert found.special_tokens["bos_token"] == "<s>" and found.special_tokens["eos_token"] == "</s>"


def test_the_tokenizers_own_file_comes_before_its_config(tmp_path):
    tokenizer = with_config(tmp_path, {"chat_template": "config"})
    (tmp_path / "chat_template.jinja").write_text("file")
    assert find_template(tokenizer).source == "file"


def with_config(directory, content):
    write_tokenizer(directory, "bytes")
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    return load_tokenizer(str(directory))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, r"template=tokenizer: .* comes with no chat template. Choose one of alpaca, chatml,"),
        ({"chat_template": ""}, "comes with no chat template"),
        ({"chat_template": 3}, "comes with no chat template"),
        ({"chat_template": [{"name": "tools", "template": "no"}]}, "comes with no chat template"),
    ],
)
def test_a_tokenizer_without_a_template_is_refused(tmp_path, content, says):
    with pytest.raises(DataError, match=says):
        find_template(with_config(tmp_path, content))


def test_a_file_that_is_named_is_read(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    name = str(tmp_path / "mine.jinja")
    found = find_template(text_tokenizer("bytes"), name)
    assert (found.name, found.source) == (name, "{{ messages }}")
    with pytest.raises(DataError, match=r"template=.*none.jinja' cannot be read"):
        find_template(text_tokenizer("bytes"), str(tmp_path / "none.jinja"))
    with pytest.raises(DataError, match=r"template='chatmI' is no template: tokenizer"):
        find_template(text_tokenizer("bytes"), "chatmI")


def test_a_template_that_writes_the_date_wants_one(tmp_path):
    (tmp_path / "today.jinja").write_text("{{ date_string or strftime_now('%d') }}")
    name = str(tmp_path / "today.jinja")
    with pytest.raises(DataError, match="writes the date of the day"):
        find_template(text_tokenizer("bytes"), name)
    found = find_template(text_tokenizer("bytes"), name, {"date_string": "26 Jul 2024"})
    assert found.variables == {"date_string": "26 Jul 2024"}
