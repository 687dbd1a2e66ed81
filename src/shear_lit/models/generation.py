"""Text that a model writes itself, from a token by lot on (arXiv:2305.17888, section 3.1): of all that it knows."""

from typing import Any, cast

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import GenerationConfig

GENERATED_LENGTH = 128
"""Tokens of a generated sequence at most: many short ones see more kinds of text than few long ones."""
TOGETHER = 64
"""Sequences that are generated at once: a step costs nearly as much for one."""


def generated(
    model: Any, rows: int, *, length: int, vocabulary: int, seed: int, device: torch.device
) -> Int64[Tensor, "rows length"]:
    """Sequences of tokens below ``vocabulary``, each token drawn from what ``model`` expects next.

    The same ``seed`` gives the same ones. The model computes on ``device``, and is on the CPU before and after.
    """
    settings = GenerationConfig(
        do_sample=True,
        top_k=0,
        min_length=length,
        max_length=length,
        pad_token_id=0,
        suppress_tokens=[*range(vocabulary, model.config.vocab_size)] or None,
    )
    own = model.generation_config
    # What `settings` leave open would be taken from it: published models come with a temperature and an end.
    model.to(device).generation_config = GenerationConfig()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            first = torch.randint(vocabulary, (rows, 1)).to(device)
            tokens = model.generate(first, attention_mask=torch.ones_like(first), generation_config=settings)
    finally:
        model.cpu().generation_config = own
    return cast(Tensor, tokens.cpu())
