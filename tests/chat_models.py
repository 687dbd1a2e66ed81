"""Tiny models with a tokenizer of special tokens and a chat template, for tests of talking, tuning and exports."""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shear_lit.data.chat.templates import find_template
from tests.data.chat.subjects import SPECIAL, TEMPLATES, text_tokenizer, write_tokenizer

__all__ = ["SPECIAL", "write_chat_model"]


def write_chat_model(
    directory: Path,
    template: str | None = "chatml",
    *,
    seed: int = 0,
    kind: str = "bytes",
    ends: list[int] | None = None,
    never_ends: bool = False,
    **sizes: object,
) -> Path:
    """A random llama with its tokenizer, a built-in template as its own, and generation settings with ``ends``.

    By default those are what ends a turn of the template. One that ``never_ends`` gives special tokens the logit 0,
    which is never the largest.
    """
    tokenizer = text_tokenizer(kind)
    source = None if template is None else find_template(tokenizer, template).source
    torch.manual_seed(seed)
    entries = dict(
        vocab_size=tokenizer.vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    if never_ends:
        entries |= dict(tie_word_embeddings=False, max_position_embeddings=1 << 20)
    network = LlamaForCausalLM(LlamaConfig(**{**entries, **sizes}))
    if never_ends:
        special = [tokenizer.backend.token_to_id(name) for name in SPECIAL]
        network.lm_head.weight.data[special] = 0
    network.save_pretrained(directory)
    write_tokenizer(directory, kind, source)
    if ends is None and template is not None:
        ends = [tokenizer.backend.token_to_id(TEMPLATES[template][0])]
    (directory / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": ends or 2})
    )
    return directory
