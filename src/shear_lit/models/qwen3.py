"""The Qwen3 type (arXiv:2505.09388): queries and keys are normalised within each head."""

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family


def qwen3(config: PretrainedConfig) -> Family:
    """The table of one Qwen3 model. The norms within a head see one whole head, whichever heads are kept."""
    return parts.llama_like(
        config,
        norms=parts.PRE_NORMS,
        cuts=(
            *parts.attention_cuts(
                config.head_dim, biased=parts.ATTENTION_LAYERS if config.attention_bias else ()
            ),
            *parts.feed_forward_cuts(),
        ),
        untouched=(f"{parts.ATTENTION}.q_norm.weight", f"{parts.ATTENTION}.k_norm.weight"),
        per_layer=("layer_types",),
        layer_counts=("max_window_layers",),
    )
