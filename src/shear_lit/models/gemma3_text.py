"""The Gemma 3 type without its vision tower: queries and keys are normalised within each head; most blocks slide."""

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Family, Period
from shear_lit.models.gemma_parts import SEES_ALL, gemma_like
from shear_lit.models.rotary import two_bases


def gemma3_text(config: PretrainedConfig) -> Family:
    """The table of one Gemma 3 model of text. The norms within a head see one whole head, whichever are kept."""
    return gemma_like(
        config,
        period=Period(listed="layer_types", kind=SEES_ALL, blocks=6, stated="sliding_window_pattern"),
        untouched=(f"{parts.ATTENTION}.q_norm.weight", f"{parts.ATTENTION}.k_norm.weight"),
        rotary=two_bases,
    )
