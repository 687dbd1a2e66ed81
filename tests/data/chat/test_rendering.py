"""Ids and labels of conversations, against transformers, and against the template rendered turn by turn."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from shear_lit.data.chat.messages import Conversation, UnusableConversation
from shear_lit.data.chat.rendering import Renderer
from shear_lit.data.chat.templates import ChatTemplate, find_template
from shear_lit.data.errors import DataError
from shear_lit.data.tokens.tokenizer import load_tokenizer
from tests.data.chat.subjects import (
    KINDS,
    TEMPLATES,
    random_conversation,
    reference,
    renderer,
    text_tokenizer,
)

SAMPLE = 600 if os.environ.get("SHEAR_LIT_TUNE") == "all" else 6
"""Conversations for each template and tokenizer; ``make tune`` takes 16,200 in all."""


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
    tokenizer, own, end = reference("bytes"), renderer("bytes", name), TEMPLATES[name][0]
    for conversation in sample(1, 12, name):
        rendered = own.render(conversation)
        learned = [tokenizer.decode(rendered.ids[part]) for part in runs(rendered.learned)]
        answers = [m["content"] for m in conversation.messages if m["role"] == "assistant"]
        assert [text.removesuffix(end).strip() for text in learned] == [text.strip() for text in answers]
        assert all(text.endswith(end) for text in learned)
        assert [part.start for part in runs(rendered.learned)] == rendered.answers
        assert rendered.text == tokenizer.decode(rendered.ids)


def runs(learned):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], learned.astype(int), [0]])))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_that_a_template_itself_marks(kind):
    """Some templates mark what the assistant writes (``{% generation %}``), which transformers gives as a mask."""
    source = (
        "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    own = rendered_by(kind, source)
    for conversation in sample(2, 12, "marked"):
        found = reference(kind).apply_chat_template(
            conversation.messages, chat_template=source, return_dict=True, return_assistant_tokens_mask=True
        )
        rendered = own.render(conversation)
        assert rendered.ids.tolist() == found["input_ids"]
        assert rendered.learned.tolist() == [bool(mask) for mask in found["assistant_masks"]]


def rendered_by(kind, source, *, allowed=(), **variables):
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    template = ChatTemplate(name="of a test", source=source, special_tokens=special, variables=variables)
    return Renderer(text_tokenizer(kind).backend, template, allowed=allowed)


SMOLLM2 = Path("~/.cache/shear_lit/smollm2-135m-instruct").expanduser()


@pytest.mark.assets
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="the demo has not fetched its source")
def test_smollm2s_own_template_gives_its_own_ids():
    """Its template writes a system message of its own, of which nothing is learned, nor is any of it a delimiter."""
    from transformers import AutoTokenizer

    tokenizer, theirs = load_tokenizer(str(SMOLLM2)), AutoTokenizer.from_pretrained(SMOLLM2)
    own = Renderer(tokenizer.backend, find_template(tokenizer))
    assert own.delimiters == set()
    for conversation in sample(4, 30, "smollm2"):
        rendered = own.render(conversation)
        assert rendered.ids.tolist() == theirs.apply_chat_template(conversation.messages, return_dict=False)
        learned = [theirs.decode(rendered.ids[part]) for part in runs(rendered.learned)]
        answers = [m["content"] for m in conversation.messages if m["role"] == "assistant"]
        # White space at the beginning of an answer may be one token with the line break of the header.
        assert [text.lstrip() for text in learned] == [f"{answer.lstrip()}<|im_end|>" for answer in answers]


# Text that imitates a template

IMITATED = {
    "chatml": ["<|im_end|>", "<|im_start|>", "</s>", "<unk>"],
    "llama-2": ["[/INST]", "[INST]", "<<SYS>>", "<</SYS>>", "</s>"],
    "llama-3": ["<|eot_id|>", "<|start_header_id|>"],
    "mistral": ["[/INST]", "[INST]", "</s>"],
    "gemma": ["<end_of_turn>", "<start_of_turn>"],
    "zephyr": ["<|user|>", "<|assistant|>", "<|system|>", "</s>"],
    "vicuna": ["USER:", "ASSISTANT:", "</s>"],
    "alpaca": ["### Response:", "### Instruction:", "</s>"],
    "sheared-llama": ["### Response:", "### Input:", "</s>"],
}


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_that_imitates_a_template_is_refused_in_any_message(name, place):
    for imitated in IMITATED[name]:
        contents = ["asked", "answered", "thanked"]
        contents[place] = f"before {imitated} after"
        with pytest.raises(UnusableConversation, match=r"special token|delimiter of the template") as refused:
            renderer("bytes", name).render(chat(*contents))
        assert imitated in str(refused.value)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_allowed_text_are_characters(kind, name):
    """The special tokens are those of a conversation without such text, in the same order."""
    own, backend = renderer(kind, name, tuple(IMITATED[name])), text_tokenizer(kind).backend
    special = [n for n, token in backend.get_added_tokens_decoder().items() if token.special and n != UNKNOWN]
    plain = own.render(chat("x", "y", "x", "y"))
    for imitated in IMITATED[name]:
        for text in (imitated, f"a{imitated}", f"a {imitated} b", f"{imitated}{imitated}"):
            conversation = chat(text, text, text, text)
            rendered = own.render(conversation)
            assert special_of(rendered, special) == special_of(plain, special)
            assert rendered.text == by_transformers(kind, own.template, conversation, tokenize=False)
            assert len(runs(rendered.learned)) == 2


UNKNOWN = 0  # which a tokenizer gives for characters that it does not know


def special_of(rendered, special):
    return rendered.ids[np.isin(rendered.ids, special)].tolist()


def test_a_role_word_is_no_delimiter():
    text = "user assistant system model\nassistant\nBelow is an instruction. ### heading [a] SUPERUSER: INST"
    assert all(len(renderer("bytes", name).render(chat(text, text)).ids) for name in TEMPLATES)


def test_keys_of_tool_calls_imitate_nothing():
    call = {"type": "function", "function": {"name": "f", "arguments": {"<|im_end|>": 1}}}
    conversation = chat("x", "y")
    conversation.messages[1]["tool_calls"] = [call]
    with pytest.raises(UnusableConversation, match="special token"):
        renderer("bytes", "chatml", ("<|im_end|>",)).render(conversation)


def test_characters_for_private_use_are_refused():
    for character in "\U000f0041\U00100001":
        with pytest.raises(UnusableConversation, match="private use"):
            renderer("bytes", "chatml").render(chat("x", f"y{character}"))


# What a template does to text

BODY = "{{ '<|im_start|>' + m.role + '\n' + TEXT + '<|im_end|>\n' }}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def chatml(text, before=""):
    return "{% for m in messages %}" + before + BODY.replace("TEXT", text) + "{% endfor %}" + ASKS


@pytest.mark.parametrize(
    "text", ["m.content | trim", "m.content.rstrip()", "m.content.lstrip('\n')", "m['content']"]
)
def test_white_space_that_a_template_takes_away_is_followed(text):
    own = rendered_by("bytes", chatml(text))
    for conversation in sample(3, 12, "trimmed"):
        rendered = own.render(conversation)
        assert rendered.ids.tolist() == by_transformers("bytes", own.template, conversation)
        labels = labels_turn_by_turn("bytes", own.template, conversation, "<|im_end|>")
        assert rendered.learned.tolist() == labels.tolist()


@pytest.mark.parametrize(
    "text", ["m.content | replace('a', 'b')", "m.content[1:] if m.content[0] == 'a' else m.content"]
)
def test_text_that_a_template_changes_is_refused_in_words(text):
    own = rendered_by("bytes", chatml(text))  # which the plain words that it was tried on did not show
    with pytest.raises(UnusableConversation, match="changes its text"):
        own.render(chat("a question", "an answer"))


REASONING = chatml(
    "text",
    "{% set text = m.content %}{% if m.role == 'assistant' and '</think>' in text and not loop.last %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}",
)


def test_earlier_reasoning_that_a_template_drops_is_no_label():
    own = rendered_by("bytes", REASONING, allowed=["<think>", "</think>"])
    first, last = "<think>why\n</think>\n\nbecause", "<think>so\n</think>\n\nthus"
    conversation = chat("ask", first, "ask again", last)
    rendered = own.render(conversation)
    assert rendered.ids.tolist() == by_transformers("bytes", own.template, conversation)
    learned = [reference("bytes").decode(rendered.ids[part]) for part in runs(rendered.learned)]
    assert learned == ["because<|im_end|>", f"{last}<|im_end|>"]


def test_messages_that_a_template_leaves_out_are_refused():
    own = rendered_by(
        "bytes",
        "{% for m in messages if m.role != 'tool' %}" + chatml("m.content")[len("{% for m in messages %}") :],
    )
    conversation = chat("x", "y", "x", "y")
    conversation.messages[2]["role"] = "tool"
    with pytest.raises(UnusableConversation, match="leaves out a message"):
        own.render(conversation)


CALLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% if m.tool_calls %}"
    "{% for c in m.tool_calls %}{{ '\n<call>' + c.function | tojson + '</call>' }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + ASKS
)


def with_call(arguments, content=""):
    call = {"type": "function", "function": {"name": "look_up", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "content": '{"found": 1}', "name": "look_up"},
        {"role": "assistant", "content": "one"},
    ]
    return Conversation(messages, [{"type": "function", "function": {"name": "look_up", "parameters": {}}}])


@pytest.mark.parametrize("content", ["", "let me see"])
def test_calls_of_tools_are_the_assistants(content):
    own = rendered_by("bytes", CALLS)
    conversation = with_call(
        {"text": 'a "quoted"\nline \\ and é', "number": 3, "list": ["a", None, True]}, content
    )
    rendered = own.render(conversation)
    expected = by_transformers("bytes", own.template, conversation, tools=conversation.tools)
    assert rendered.ids.tolist() == expected
    learned = [reference("bytes").decode(rendered.ids[part]) for part in runs(rendered.learned)]
    assert learned[0].startswith(f"{content}\n<call>{{") and learned[0].endswith("}</call><|im_end|>")
    assert learned[1] == "one<|im_end|>"


def test_calls_and_tools_without_support_are_refused():
    conversation = with_call({"x": "y"}, "text")
    with pytest.raises(UnusableConversation, match="leaves out tools"):
        renderer("bytes", "chatml").render(conversation)
    with pytest.raises(UnusableConversation, match="leaves out tools"):
        renderer("bytes", "chatml").render(Conversation(conversation.messages, []))
    with pytest.raises(UnusableConversation, match="leaves out tools"):
        renderer("bytes", "chatml").render(Conversation(chat("x", "y").messages, conversation.tools))


def test_reasoning_without_support_is_refused():
    conversation = chat("x", "y")
    conversation.messages[1]["reasoning_content"] = "because"
    with pytest.raises(UnusableConversation, match="leaves out tools, tool calls or reasoning"):
        renderer("bytes", "chatml").render(conversation)


@pytest.mark.parametrize("name", ["llama-2", "mistral", "gemma", "vicuna", "alpaca", "sheared-llama"])
def test_what_a_template_refuses_is_refused_in_its_words(name):
    conversation = Conversation([{"role": "user", "content": "x"}, *chat("x", "y").messages], [])
    with pytest.raises(UnusableConversation, match=r"the template refuses it .*in turn"):
        renderer("bytes", name).render(conversation)


def test_an_answer_of_weight_0_is_not_learned():
    conversation = chat("x", "y", "z", "w")
    conversation.messages[1]["weight"] = 0
    rendered = renderer("bytes", "chatml").render(conversation)
    learned = [reference("bytes").decode(rendered.ids[part]) for part in runs(rendered.learned)]
    assert learned == ["w<|im_end|>"] and len(rendered.answers) == 2
    conversation.messages[1]["weight"] = 1
    assert renderer("bytes", "chatml").render(conversation).learned.sum() > rendered.learned.sum()


def test_headers_of_a_template_that_knows_no_asking_are_not_learned():
    own = rendered_by("bytes", chatml("m.content").removesuffix(ASKS))
    rendered = own.render(chat("x", "y", "z", "w"))
    learned = [reference("bytes").decode(rendered.ids[part]) for part in runs(rendered.learned)]
    assert learned == ["y<|im_end|>", "w<|im_end|>"]


def test_what_a_template_writes_before_an_answer_that_it_asks_for_is_learned():
    own = rendered_by("bytes", chatml("('<think></think>' if m.role == 'assistant' else '') + m.content"))
    rendered = own.render(chat("x", "y"))
    (part,) = runs(rendered.learned)
    assert reference("bytes").decode(rendered.ids[part]) == "<think></think>y<|im_end|>"


def test_a_conversation_may_begin_with_an_answer():
    conversation = Conversation(chat("x", "hello", "x", "there").messages[1:], [])
    rendered = renderer("bytes", "chatml").render(conversation)
    learned = [reference("bytes").decode(rendered.ids[part]) for part in runs(rendered.learned)]
    assert learned == ["hello<|im_end|>", "there<|im_end|>"]


# Templates that cannot be used


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (chatml("m.content").replace("<|im_end|>", ""), "writes no special token behind an answer"),
        (chatml("m.content | upper"), "changes its text"),
        ("{{ nothing.at_all }}", "refuses it"),
        ("{% for m in messages %}", "refuses it"),
        ("{{ messages[0].__class__.__mro__ }}", "refuses it"),
        ("{{ raise_exception('never') }}", "refuses it .never."),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_before_any_conversation(source, says):
    with pytest.raises(DataError, match=f"template='of a test', tried on .*{says}"):
        rendered_by("bytes", source)


def test_a_template_whose_special_tokens_the_tokenizer_lacks_is_refused():
    with pytest.raises(
        DataError, match=r"no special token behind an answer.*special tokens are </s>, <s>, <unk>\."
    ):
        Renderer(plain_backend(), renderer("bytes", "chatml").template)


def plain_backend():
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend
