"""The SmolLM3 type: LLaMA with blocks that have no rotary embedding."""

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family, Period


def smollm3(config: PretrainedConfig) -> Family:
    """The table of one SmolLM3 model. A block keeps its own kind of position embedding wherever it ends up."""
    return parts.llama_like(
        config,
        norms=parts.PRE_NORMS,
        cuts=(
            *parts.attention_cuts(
                parts.head_size_of(config), biased=parts.ATTENTION_LAYERS if config.attention_bias else ()
            ),
            *parts.feed_forward_cuts(biased=config.mlp_bias),
        ),
        per_layer=("no_rope_layers", "layer_types"),
        period=Period(listed="no_rope_layers", kind=0, blocks=4),
    )
