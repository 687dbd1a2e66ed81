"""Small tokenizers of both kinds, trained on the spot, and conversations at random."""

import json
import random
import tempfile
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from shear_lit.data.chat.messages import Conversation
from shear_lit.data.chat.rendering import Renderer
from shear_lit.data.chat.templates import find_template
from shear_lit.data.tokens.tokenizer import TextTokenizer, load_tokenizer

TEXTS = [
    "the quick brown fox jumps over the lazy dog, and 12 of 345 dogs bark at it: why?",
    "user assistant system model INST /INST SYS input response instruction question answer tool",
    "def f(x):\n    return {'x': [1, 2], \"y\": None}\n\n\nprint(f(3))  # a comment\n",
    "Zwölf Boxkämpfer jagen Viktor. Виктор прыгает. 快速的棕色狐狸 🦊👩‍👩‍👧 e\u0301 \u00a0 end",
    "  two  spaces,\tand a tab\r\n<b>bold</b> [a](b) <|x|> {y} ### title | a | b |",
]

TEMPLATES = {
    "chatml": ("<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    "llama-2": ("</s>", []),
    "llama-3": ("<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "mistral": ("</s>", []),
    "gemma": ("<end_of_turn>", ["<start_of_turn>", "<end_of_turn>"]),
    "zephyr": ("</s>", []),
    "vicuna": ("</s>", []),
    "alpaca": ("</s>", []),
    "sheared-llama": ("</s>", []),
}
"""What ends a turn of each template, and the special tokens that it takes besides BOS and EOS."""
KINDS = ("bytes", "pieces", "first")
"""Byte-level BPE; BPE of pieces, bytes for the rest, with a space before each part of a text; or before the first."""
SPECIAL = ["<unk>", "<s>", "</s>", *sorted({token for _, more in TEMPLATES.values() for token in more})]


@cache
def backend(kind: str) -> Tokenizer:
    trained = _bytes() if kind == "bytes" else _pieces(kind)
    trained.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return trained


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=SPECIAL[:3],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _pieces(kind: str) -> Tokenizer:
    """As Llama 2's ``tokenizer.json``, of which one form puts a space before each part, the other before the first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if kind == "pieces":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokens = [*SPECIAL[:3], *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=tokens, show_progress=False)
    tokenizer.train_from_iterator([line for text in TEXTS[:3] for line in text.splitlines()], trainer)
    # The bytes are no special tokens of such a file, which only the trainer takes them for.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


@cache
def reference(kind: str) -> PreTrainedTokenizerFast:
    """As transformers has it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend(kind), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def write_tokenizer(directory: Path, kind: str = "bytes", template: str | None = None) -> Path:
    """A Hugging Face directory with one, and with a chat template where one is given."""
    tokenizer = reference(kind)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    tokenizer.chat_template = None
    return directory


_FOLDER = tempfile.TemporaryDirectory()


@cache
def text_tokenizer(kind: str) -> TextTokenizer:
    """As it is loaded from a directory."""
    return load_tokenizer(str(write_tokenizer(Path(_FOLDER.name) / kind, kind)))


@cache
def renderer(kind: str, name: str, allowed: tuple[str, ...] = ()) -> Renderer:
    return Renderer(text_tokenizer(kind).backend, find_template(text_tokenizer(kind), name), allowed=allowed)


def random_conversation(
    numbers: random.Random, *, system: bool = True, turns: int | None = None
) -> Conversation:
    """A conversation of up to five questions; what is written has white space at its ends, and what looks like tags."""
    turns = turns or numbers.randint(1, 5)
    messages = []
    if system and numbers.random() < 0.5:
        messages.append({"role": "system", "content": random_text(numbers)})
    for _ in range(turns):
        messages.append({"role": "user", "content": random_text(numbers)})
        messages.append({"role": "assistant", "content": random_text(numbers)})
    return Conversation(messages, [])


_WORDS = sorted({word for text in TEXTS for word in text.split(" ")})


def random_text(numbers: random.Random) -> str:
    words = numbers.choices(_WORDS, k=numbers.randint(1, 12))
    gaps = numbers.choices([" ", " ", " ", "\n", "  ", "\n\n", "", "\t"], k=len(words))
    ends = ["", "", "", " ", "\n", "\n\n", "  \n"]
    text = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    text = numbers.choice(ends) + text.strip() + numbers.choice(ends)
    return text if text.strip() else "x"
