"""What a model is made of, counted from its config."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from shear_lit.models.huggingface import read_config

CACHED_TOKENS = 2048
"""Tokens of the sequence whose cache of keys and values is counted."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a model is made of."""

    parameters: int
    """All of them."""
    without_embeddings: int
    """Without the embedding and an untied head."""
    flops_per_token: int
    """Of a forward pass: two for each parameter but the embedding's, and the head; none between tokens."""
    weight_bytes: int
    """Memory of the weights in what was computed in."""
    cache_bytes: int
    """Memory of the keys and values of a sequence of ``CACHED_TOKENS`` tokens in what was computed in."""


def size_of(place: str, dtype: str) -> ModelSize:
    """Count on a model without weights; ``dtype`` is what it computes in.

    Raises:
        SourceError: there is no such model.
    """
    config = read_config(place, for_training=False)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    embedding, head = empty.get_input_embeddings().weight, empty.get_output_embeddings().weight
    parameters, item = empty.num_parameters(), getattr(torch, dtype).itemsize
    inside = parameters - embedding.numel() - (0 if head is embedding else head.numel())
    return ModelSize(
        parameters=parameters,
        without_embeddings=inside,
        flops_per_token=2 * (inside + head.numel()),
        weight_bytes=parameters * item,
        cache_bytes=cached_numbers(config) * item,
    )


def cached_numbers(config: Any) -> int:
    """Keys and values of one sequence, over all blocks; those with a sliding window keep no more than it."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or CACHED_TOKENS
    tokens = sum(min(CACHED_TOKENS, window) if "sliding" in kind else CACHED_TOKENS for kind in kinds)
    return 2 * tokens * (getattr(config, "num_key_value_heads", None) or heads) * int(head_size)
