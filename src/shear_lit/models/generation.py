"""Text that a model writes itself, from a token by lot on (arXiv:2305.17888, section 3.1): of all that it knows."""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

GENERATED_LENGTH = 128
"""Tokens of a generated sequence at most: many short ones see more kinds of text than few long ones."""
TOGETHER = 64
"""Sequences that are generated at once: a step costs nearly as much for one."""


class _Drawn(LogitsProcessor):
    """Leave of all tokens the one that is drawn, by one number for each sequence.

    The sampling of ``generate`` itself draws a number for every token of the vocabulary, which takes as long as the
    model does.
    """

    def __init__(self, vocabulary: int, writes: Bool[Tensor, "vocabulary"] | None) -> None:
        self._vocabulary, self._writes = vocabulary, writes

    def __call__(
        self, input_ids: Tensor, scores: Float[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows tokens"]:
        known = scores[:, : self._vocabulary]
        known = known if self._writes is None else known.where(self._writes, -torch.inf)
        below = known.softmax(-1).cumsum(-1)
        drawn = torch.rand(len(scores), 1, device=scores.device) * below[:, -1:]
        token = (below <= drawn).sum(-1, keepdim=True).clamp(max=self._vocabulary - 1)
        # Rounding may lift what is drawn to the whole: the last token is as good as any, or else the likeliest.
        token = token.where(known.gather(-1, token) > -torch.inf, known.argmax(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def generated(
    model: Any,
    rows: int,
    *,
    length: int,
    vocabulary: int,
    seed: int,
    device: torch.device,
    begins: Float[Tensor, "vocabulary"] | None = None,
    writes: Bool[Tensor, "vocabulary"] | None = None,
) -> Int64[Tensor, "rows length"]:
    """Sequences of tokens below ``vocabulary``, each token drawn from what ``model`` expects next.

    They begin with any token, or with those that ``begins`` makes likely, and go on with any, or with those that
    ``writes`` allows. The same ``seed`` gives the same ones. The model computes on ``device``, and is on the CPU before
    and after.
    """
    settings = GenerationConfig(min_length=length, max_length=length, pad_token_id=0)
    own, allowed = model.generation_config, None if writes is None else writes.to(device)
    # What `settings` leave open would be taken from it: published models come with a temperature and an end.
    model.to(device).generation_config = GenerationConfig()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            if begins is None:
                first = torch.randint(vocabulary, (rows, 1)).to(device)
            else:
                first = begins.multinomial(rows, replacement=True).to(device)[:, None]
            tokens = model.generate(
                first,
                attention_mask=torch.ones_like(first),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Drawn(vocabulary, allowed)]),
            )
    finally:
        model.cpu().generation_config = own
    return cast(Tensor, tokens.cpu())
