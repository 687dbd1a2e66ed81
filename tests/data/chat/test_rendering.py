"""Ids and labels of conversations, against transformers, and against the template rendered turn by turn."""

import random

import numpy as np
import pytest

from shear_lit.data.chat.messages import Conversation, UnusableConversation
from shear_lit.data.chat.rendering import Renderer
from shear_lit.data.chat.templates import ChatTemplate
from shear_lit.data.errors import DataError
from tests.data.chat.subjects import (
    KINDS,
    TEMPLATES,
    random_conversation,
    reference,
    renderer,
    text_tokenizer,
)

SAMPLE = 12
"""Conversations for each template and tokenizer; `make tune` takes 5,000 for each template."""


def chat(*contents, system=None):
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return Conversation(([{"role": "system", "content": system}] if system else []) + messages, [])


def by_transformers(kind, template, conversation, **options):
    return reference(kind).apply_chat_template(
        conversation.messages, chat_template=template.source, return_dict=False, **options
    )


def labels_turn_by_turn(kind, template, conversation, end):
    """The tokens of what comes after each prompt, up to the last token that ends a turn in it."""
    tokenizer = reference(kind)
    whole = by_transformers(kind, template, conversation, tokenize=False)
    offsets = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    learned = np.zeros(len(offsets), dtype=bool)
    for number, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        before = Conversation(conversation.messages[:number], [])
        up_to = Conversation(conversation.messages[: number + 1], [])
        prompt = by_transformers(kind, template, before, tokenize=False, add_generation_prompt=True)
        answered = by_transformers(kind, template, up_to, tokenize=False)
        assert whole.startswith(prompt) and whole.startswith(answered.rstrip())
        start, stop = len(prompt), answered.rindex(end) + len(end)
        learned |= [left < stop and (right > start or left >= start) for left, right in offsets]
    return learned


def wrong_tokens(kind, name, conversation):
    """Tokens whose id is not transformers', and tokens whose label is not that of the turns."""
    own, end = renderer(kind, name), TEMPLATES[name][0]
    rendered = own.render(conversation)
    expected = by_transformers(kind, own.template, conversation)
    labels = labels_turn_by_turn(kind, own.template, conversation, end)
    if len(expected) != len(rendered.ids):
        return len(expected), len(labels)
    return int((rendered.ids != expected).sum()), int((rendered.learned != labels).sum())


def sample(seed, count, name):
    numbers = random.Random(f"{seed} {name}")
    return [random_conversation(numbers, system=name != "gemma") for _ in range(count)]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers_and_labels_those_of_the_turns(kind, name):
    found = [wrong_tokens(kind, name, one) for one in sample(0, SAMPLE, name)]
    assert found == [(0, 0)] * SAMPLE


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_is_the_answers_and_what_ends_them(name):
    """A byte-level tokenizer gives back the text of any of its tokens."""
    tokenizer, own = reference("bytes"), renderer("bytes", name)
    for conversation in sample(1, SAMPLE, name):
        rendered = own.render(conversation)
        learned = [tokenizer.decode(rendered.ids[part]) for part in runs(rendered.learned)]
        answers = [m["content"] for m in conversation.messages if m["role"] == "assistant"]
        end = TEMPLATES[name][0]
        assert [text.strip() for text in learned] == [
            f"{answer.strip()}{text[len(text.removesuffix(end).rstrip()) : -len(end)]}{end}".strip()
            for answer, text in zip(answers, learned, strict=True)
        ]
        assert [tokenizer.decode(rendered.ids[at]) in text for at, text in zip(rendered.answers, learned)]


def runs(learned):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], learned.astype(int), [0]])))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2)]
