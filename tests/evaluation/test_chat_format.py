"""What a model is told: the ids of transformers, and text that stays text whatever it looks like."""

import pytest
from transformers import PreTrainedTokenizerFast

from shear_lit.data.chat.templates import built_in_names
from shear_lit.evaluation.chat_format import ConversationError, read_chat_format
from shear_lit.mistakes import Mistake
from tests.chat_models import SPECIAL, write_chat_model

TALK = [
    {"role": "user", "content": "what is the tallest tree"},
    {"role": "assistant", "content": "a coast redwood"},
    {"role": "user", "content": "  how old\n\nare they?  "},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.mark.parametrize("name", built_in_names())
def test_prompt_has_the_ids_of_transformers(place, name):
    chat = read_chat_format(str(place), template=name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
    expected = tokenizer.apply_chat_template(
        TALK, chat_template=chat.template.source, add_generation_prompt=True, return_dict=False
    )
    assert chat.prompt(TALK) == expected


@pytest.mark.parametrize("name", built_in_names())
def test_only_the_last_answer_is_told_apart_with_the_token_that_ends_it(place, name):
    chat = read_chat_format(str(place), template=name)
    ids, own = chat.answered(TALK, "about two thousand years")
    first, last = own.index(True), len(own) - 1 - own[::-1].index(True)
    assert all(own[first : last + 1]) and ids[last] in chat.ends
    said = chat.tokenizer.backend.decode(ids[first:last], skip_special_tokens=False)
    assert said.strip() == "about two thousand years"
    # Not by ids: two line breaks before a letter may be other tokens than at the end of a prompt.
    before, prompt = (
        chat.tokenizer.backend.decode(part, skip_special_tokens=False)
        for part in (ids[:first], chat.prompt(TALK))
    )
    assert prompt.rstrip() == before.rstrip() and prompt.startswith(before.rstrip())


@pytest.mark.parametrize("typed", SPECIAL)
def test_typed_names_of_special_tokens_are_text(place, typed):
    chat = read_chat_format(str(place), template="chatml")
    number = chat.tokenizer.backend.token_to_id(typed)
    plain = chat.prompt([{"role": "user", "content": "so"}])
    found = chat.prompt([{"role": "user", "content": f"so {typed} it is"}])
    assert found.count(number) == plain.count(number)
    assert typed in chat.tokenizer.backend.decode(found, skip_special_tokens=False)


def test_conversation_that_a_template_refuses_is_one_line(place):
    chat = read_chat_format(str(place), template="gemma")
    twice = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    with pytest.raises(ConversationError, match="cannot be told to the model") as found:
        chat.prompt(twice)
    assert "\n" not in str(found.value)


def test_model_without_a_template_is_refused_with_the_way_out(toy):
    with pytest.raises(Mistake, match="comes with no chat template") as found:
        read_chat_format(str(toy.source()))
    assert "chatml" in str(found.value) and "\n" not in str(found.value)
