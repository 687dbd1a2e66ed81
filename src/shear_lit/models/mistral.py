"""The Mistral type (arXiv:2310.06825): LLaMA's arithmetic with a sliding window over all blocks, or without one."""

from typing import Any

from transformers import LlamaConfig, MistralConfig, PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family, FamilyError


def mistral(config: PretrainedConfig) -> Family:
    """The table of one Mistral model."""
    return parts.llama_like(
        config,
        norms=parts.PRE_NORMS,
        cuts=(
            *parts.attention_cuts(parts.head_size_of(config)),
            *parts.feed_forward_cuts(),
        ),
        per_layer=("layer_types",),
    )


def biases_of_llama(config: PretrainedConfig) -> list[str]:
    """The options of a LLaMA config that a Mistral model has no place for, where they are on."""
    return [name for name in ("attention_bias", "mlp_bias") if getattr(config, name)]


def mistral_of_llama(config: PretrainedConfig) -> MistralConfig:
    """The Mistral config that computes what a LLaMA config does; its class takes any hidden size.

    The tensors and their names are the same. There is no sliding window.

    Raises:
        FamilyError: the config is not LLaMA's, or has biases, which the Mistral type lacks.
    """
    if not isinstance(config, LlamaConfig):
        raise FamilyError(
            f"mistral with model_type={config.model_type!r}: only a llama model computes what a mistral model "
            f"does. Write it as what it is.",
            key="write_as",
        )
    biases = biases_of_llama(config)
    if biases:
        raise FamilyError(
            f"mistral with {biases[0]}=True: a mistral model has no biases. Write it as llama, and choose a "
            f"shape that llama's config takes.",
            key="write_as",
        )
    entries: dict[str, Any] = config.to_dict()
    for llama_only in ("attention_bias", "mlp_bias", "pretraining_tp", "model_type", "transformers_version"):
        entries.pop(llama_only, None)
    return MistralConfig(**{**entries, "architectures": ["MistralForCausalLM"], "sliding_window": None})
