"""What Gemma 2 (arXiv:2408.00118) and Gemma 3 (arXiv:2503.19786) share: four norms a block, a scaled embedding.

Their norms multiply by (1 + weight). The scale of the embedding is the root of the hidden size, which pruning changes.
"""

import math
from typing import Any

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family, FamilyError, Norm, NormKind, Period
from shear_lit.models.shape_rules import hidden_multiple_of_heads
from shear_lit.models.source_files import KEY, name_of


def _norm(module: str, *, after: str | None = None) -> Norm:
    return Norm(module=module, epsilon="eps", kind=NormKind.ONE_PLUS_RMS, after=after)


_NORMS = (
    _norm(f"{parts.BLOCK}.input_layernorm"),
    _norm(f"{parts.BLOCK}.post_attention_layernorm", after=parts.OUTPUT),
    _norm(f"{parts.BLOCK}.pre_feedforward_layernorm"),
    _norm(f"{parts.BLOCK}.post_feedforward_layernorm", after=parts.DOWN),
    _norm(parts.LAST_NORM),
)


SEES_ALL = "full_attention"
"""The kind of the blocks without a sliding window."""


def gemma_like(config: PretrainedConfig, *, period: Period, **entries: Any) -> Family:
    """The table of one Gemma model of text.

    Raises:
        FamilyError: its attention looks ahead.
    """
    if config.use_bidirectional_attention:
        raise FamilyError(
            f"{name_of(config)} has use_bidirectional_attention=True: only {config.model_type} models that look back "
            f"can be trained to predict the next token. Use a causal language model.",
            key=KEY,
        )
    return parts.llama_like(
        config,
        norms=_NORMS,
        cuts=(
            *parts.attention_cuts(
                config.head_dim, biased=parts.ATTENTION_LAYERS if config.attention_bias else (), writes=()
            ),
            *parts.feed_forward_cuts(writes=()),
        ),
        check_shape=hidden_multiple_of_heads(config.model_type, parts.shape_of(config)),
        embedding_scale=math.sqrt,
        per_layer=("layer_types",),
        period=period,
        **entries,
    )
