"""The Gemma 3 type without its vision tower: queries and keys are normalised within each head; most blocks slide."""

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family
from shear_lit.models.gemma_parts import gemma_like


def gemma3_text(config: PretrainedConfig) -> Family:
    """The table of one Gemma 3 model of text. The norms within a head see one whole head, whichever are kept."""
    return gemma_like(
        config, untouched=(f"{parts.ATTENTION}.q_norm.weight", f"{parts.ATTENTION}.k_norm.weight")
    )
