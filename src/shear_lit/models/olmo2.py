"""The OLMo 2 type (arXiv:2501.00656): norms after attention and feed-forward, and over all queries and all keys."""

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family, Norm
from shear_lit.models.rotary import type_and_factor
from shear_lit.theory.shape import Axis

_NORMS = (
    Norm(module=f"{parts.ATTENTION}.q_norm", over=Axis.QUERY_HEADS, after=f"{parts.ATTENTION}.q_proj"),
    Norm(module=f"{parts.ATTENTION}.k_norm", over=Axis.KV_HEADS, after=f"{parts.ATTENTION}.k_proj"),
    Norm(module=f"{parts.BLOCK}.post_attention_layernorm", after=parts.OUTPUT),
    Norm(module=f"{parts.BLOCK}.post_feedforward_layernorm", after=parts.DOWN),
    Norm(module=parts.LAST_NORM),
)


def olmo2(config: PretrainedConfig) -> Family:
    """The table of one OLMo 2 model. The norms carry the gates of a block's output; what they normalise does not."""
    return parts.llama_like(
        config,
        norms=_NORMS,
        cuts=(
            *parts.attention_cuts(
                parts.head_size_of(config),
                biased=parts.ATTENTION_LAYERS if config.attention_bias else (),
                writes=(),
            ),
            *parts.feed_forward_cuts(writes=()),
        ),
        rotary=type_and_factor,
    )
