"""From a Hugging Face config to its family table, and from the table to sizes and counts."""

import math

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from shear_lit.models.family import Family, FamilyError
from shear_lit.models.llama import llama
from shear_lit.theory.shape import ModelShape

FAMILIES = {"llama": llama}
"""Table builders by the ``model_type`` of the config."""


def family_of(config: PretrainedConfig) -> Family:
    """The table of the model that ``config`` describes.

    Raises:
        FamilyError: no table exists for its model type.
    """
    if config.model_type not in FAMILIES:
        raise FamilyError(
            f"model.source has model_type={config.model_type!r}, for which there is no family table. "
            f"Tables exist for: {', '.join(FAMILIES)}. Use such a model, or add a table in shear_lit/models."
        )
    return FAMILIES[config.model_type](config)


def tensor_sizes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """The size of every parameter of the model, a shared one once; no memory is taken for weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def parameter_count(config: PretrainedConfig, shape: ModelShape | None = None) -> int:
    """Parameters of the model, or of what is left of it at ``shape``."""
    family = family_of(config)
    sizes = family.carved_sizes(tensor_sizes(config), shape or family.shape)
    return sum(math.prod(size) for size in sizes.values())


def carved_config(config: PretrainedConfig, shape: ModelShape) -> PretrainedConfig:
    """The stock config of the smaller model; everything but the sizes is as in the source.

    Raises:
        ShapeError: the stock config class refuses the shape.
    """
    family = family_of(config)
    family.check_shape(shape)
    entries = config.to_dict()
    # What describes the source's file, not its arithmetic.
    for stale in ("_name_or_path", "quantization_config", "transformers_version"):
        entries.pop(stale, None)
    return type(config).from_dict({**entries, **family.resized(shape)})
