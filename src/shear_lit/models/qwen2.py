"""The Qwen2 type (Qwen2, Qwen2.5; arXiv:2407.10671): biases on Q, K and V; a sliding window in the later blocks."""

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family


def qwen2(config: PretrainedConfig) -> Family:
    """The table of one Qwen2 model."""
    return parts.llama_like(
        config,
        norms=parts.PRE_NORMS,
        cuts=(
            *parts.attention_cuts(parts.head_size_of(config), biased=("q_proj", "k_proj", "v_proj")),
            *parts.feed_forward_cuts(),
        ),
        per_layer=("layer_types",),
        layer_counts=("max_window_layers",),
    )
