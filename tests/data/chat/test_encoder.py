"""Conversations that fit are whole; longer ones are cut where a question begins, and say the same."""

import random
from itertools import chain

import numpy as np
import pytest

from shear_lit.data.chat.encoder import TOO_LONG, ChatEncoder
from shear_lit.data.chat.messages import Conversation
from shear_lit.data.prepared.conversations import ChatRecord
from shear_lit.data.tokens.spools import ANSWERS, BEGINS, LEARNED
from tests.data.chat.subjects import random_conversation, renderer, text_tokenizer
from tests.data.chat.test_rendering import chat


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory):
    file = tmp_path_factory.mktemp("encoder") / "tokenizer.json"
    file.write_text(text_tokenizer("bytes").backend.to_str())

    def make(length, name="chatml"):
        template = renderer("bytes", name).template
        return ChatEncoder(file, ChatRecord(template=template, sha256=template.sha256), length=length)

    return make


@pytest.mark.parametrize("name", ["chatml", "llama-2"])
def test_long_conversations_are_cut_where_questions_begin(encoder_of, name):
    """Each part is as long as it can be, and is what the template makes of its messages behind the system message."""
    numbers, own = random.Random(5), renderer("bytes", name)
    for _ in range(4):
        conversation = random_conversation(numbers, turns=6)
        messages = conversation.messages
        head = messages[: len(messages) % 2]
        pairs = [messages[at : at + 2] for at in range(len(head), len(messages), 2)]
        sizes = [len(own.render(Conversation([*head, *pair], [])).ids) for pair in pairs]
        length = max(sizes) + 40
        parts = encoder_of(length, name).parts(conversation)
        begin = 0
        for part in parts:
            end = next(
                end
                for end in range(len(pairs), begin, -1)
                if len(own.render(Conversation([*head, *chain.from_iterable(pairs[begin:end])], [])).ids)
                <= length
            )
            expected = own.render(Conversation([*head, *chain.from_iterable(pairs[begin:end])], []))
            assert np.array_equal(part.ids, expected.ids) and np.array_equal(part.learned, expected.learned)
            begin = end
        assert begin == len(pairs)


def test_flags_say_what_is_learned_and_where_parts_and_answers_begin(encoder_of):
    conversation = chat("one", "two", "three", "four", "five", "six", system="be brief")
    whole = renderer("bytes", "chatml").render(conversation)
    (fits,) = encoder_of(len(whole.ids)).encode([conversation.as_text()])
    assert fits.ids.tolist() == whole.ids.tolist()
    assert (fits.flags & LEARNED > 0).tolist() == whole.learned.tolist()
    assert np.flatnonzero(fits.flags & BEGINS).tolist() == [0]
    assert np.flatnonzero(fits.flags & ANSWERS).tolist() == whole.answers
    encoder = encoder_of(len(whole.ids) - 1)
    (cut,) = encoder.encode([conversation.as_text()])
    parts = encoder.parts(conversation)
    assert len(parts) == 2 and len(cut.ids) == sum(len(part.ids) for part in parts)
    assert np.flatnonzero(cut.flags & BEGINS).tolist() == [0, len(parts[0].ids)]
    assert (cut.flags & ANSWERS > 0).sum() == 3


def test_an_exchange_that_is_longer_than_a_sequence_is_of_no_use(encoder_of):
    conversation = chat("short", "short", "x" * 100, "short")
    (found,) = encoder_of(40).encode([conversation.as_text()])
    assert found.reason == TOO_LONG


def test_a_question_without_an_answer_is_no_part_of_its_own(encoder_of):
    conversation = chat("one", "two " * 10, "three " * 10)
    length = len(renderer("bytes", "chatml").render(chat("one", "two " * 10)).ids)
    (part,) = encoder_of(length).parts(conversation)
    assert len(part.ids) == length
