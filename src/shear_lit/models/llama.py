"""The LLaMA type (Llama 1 to 3.x, TinyLlama, SmolLM2, ...): GQA or MHA, tied or untied head, explicit head size."""

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family
from shear_lit.models.mistral import biases_of_llama
from shear_lit.models.shape_rules import hidden_multiple_of_heads


def llama(config: PretrainedConfig) -> Family:
    """The table of one LLaMA model. Scaled rotary embeddings depend on the head size alone, which never changes."""
    return parts.llama_like(
        config,
        norms=parts.PRE_NORMS,
        cuts=(
            *parts.attention_cuts(
                config.head_dim, biased=parts.ATTENTION_LAYERS if config.attention_bias else ()
            ),
            *parts.feed_forward_cuts(biased=config.mlp_bias),
        ),
        check_shape=hidden_multiple_of_heads("llama", parts.shape_of(config), otherwise=_otherwise(config)),
    )


def _otherwise(config: PretrainedConfig) -> str:
    """What takes any hidden size and computes the same, where there is such a type."""
    if biases_of_llama(config):
        return ""
    return ", or write the model as mistral, which computes the same and takes any hidden size (write_as=mistral)"
