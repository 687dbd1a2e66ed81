"""The Gemma 2 type: soft-capped attention and logits, every other block with a sliding window."""

from transformers import PretrainedConfig

from shear_lit.models.family import Family, Period
from shear_lit.models.gemma_parts import SEES_ALL, gemma_like


def gemma2(config: PretrainedConfig) -> Family:
    """The table of one Gemma 2 model."""
    return gemma_like(config, period=Period(listed="layer_types", kind=SEES_ALL, blocks=2))
