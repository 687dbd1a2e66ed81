"""From a Hugging Face config to its family table, and from the table to sizes, counts and the config of a cut."""

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from shear_lit.models.family import Family, FamilyError
from shear_lit.models.gemma2 import gemma2
from shear_lit.models.gemma3_text import gemma3_text
from shear_lit.models.gpt_neox import gpt_neox
from shear_lit.models.huggingface import config_of
from shear_lit.models.llama import llama
from shear_lit.models.mistral import mistral, mistral_of_llama
from shear_lit.models.olmo2 import olmo2
from shear_lit.models.phi3 import phi3
from shear_lit.models.qwen2 import qwen2
from shear_lit.models.qwen3 import qwen3
from shear_lit.models.refusals import check_has_table, check_lists_are_known
from shear_lit.models.smollm3 import smollm3
from shear_lit.models.source_files import KEY, name_of, said
from shear_lit.theory.shape import ModelShape

FAMILIES: dict[str, Callable[[PretrainedConfig], Family]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
    "olmo2": olmo2,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "gpt_neox": gpt_neox,
    "phi3": phi3,
}
"""Table builders by the ``model_type`` of the config."""


def family_of(config: PretrainedConfig) -> Family:
    """The table of the model that ``config`` describes.

    Raises:
        FamilyError: no table exists for its model type, it has an option that its table does not cover, or a value of
            it cannot be one of a model.
    """
    try:
        check_has_table(config, tuple(FAMILIES))
        family = FAMILIES[config.model_type](config)
        check_lists_are_known(config, family)
    except FamilyError:
        raise
    except Exception as error:
        raise _unusable(config, error) from error
    return family


def _unusable(config: PretrainedConfig, error: Exception) -> FamilyError:
    """Values that a config class takes and no model can be built of, whatever was raised at them."""
    return FamilyError(
        f"{name_of(config)}: no {config.model_type} model can be built from its config ({said(error)}). "
        f"Get the config again, or correct it.",
        key=KEY,
    )


def written_config(config: PretrainedConfig, write_as: str) -> PretrainedConfig:
    """The config of the same model under the type that it is to be written as, before any cut.

    Raises:
        FamilyError: that type does not compute what the model does.
    """
    return config if write_as == "source" else mistral_of_llama(config)


def tensor_sizes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """The size of every parameter of the model, a shared one once; no memory is taken for weights.

    Raises:
        FamilyError: no model can be built from the config.
    """
    try:
        return dict(_tensor_sizes(config.to_json_string()))
    except Exception as error:
        raise _unusable(config, error) from error


@lru_cache(maxsize=4)
def _tensor_sizes(entries: str) -> dict[str, tuple[int, ...]]:
    """An empty model is built for them: a tenth of a second, which one export would otherwise spend several times."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(json.loads(entries)), trust_remote_code=False)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def parameter_count(config: PretrainedConfig, shape: ModelShape | None = None) -> int:
    """Parameters of the model, or of what is left of it at ``shape``."""
    family = family_of(config)
    sizes = family.carved_sizes(tensor_sizes(config), shape or family.shape)
    return sum(math.prod(size) for size in sizes.values())


def carved_config(
    config: PretrainedConfig, shape: ModelShape, *, kept_layers: Sequence[int] | None = None
) -> PretrainedConfig:
    """The stock config of the smaller model; everything but the sizes is as in the source.

    ``kept_layers``: the blocks of the source that are kept, in order. It may be left out where no block goes, or where
    blocks do not differ.

    Raises:
        ShapeError: the stock config class refuses the shape.
    """
    family = family_of(config)
    family.check_shape(shape)
    entries = config.to_dict()
    # What describes the source's file, not its arithmetic.
    for stale in ("_name_or_path", "quantization_config", "transformers_version"):
        entries.pop(stale, None)
    of_blocks = _entries_of_blocks(family, entries, shape, kept_layers)
    return type(config).from_dict({**entries, **family.resized(shape), **of_blocks})


def _entries_of_blocks(
    family: Family, entries: dict[str, Any], shape: ModelShape, kept_layers: Sequence[int] | None
) -> dict[str, Any]:
    """What the config says of single blocks, for the blocks that are kept."""
    if shape.layers == family.shape.layers:
        return {}
    lists = {name: entries[name] for name in family.per_layer if isinstance(entries.get(name), list)}
    if kept_layers is None:
        differ = [name for name, values in lists.items() if len(set(values[: family.shape.layers])) > 1]
        if differ:
            raise ValueError(f"{differ[0]} differs from block to block: say which blocks are kept")
        kept_layers = range(shape.layers)
    if len(kept_layers) != shape.layers:
        raise ValueError(f"{len(kept_layers)} blocks are kept, and the shape has {shape.layers}")
    counts = {
        name: sum(block < entries[name] for block in kept_layers)
        for name in family.layer_counts
        if entries.get(name) is not None
    }
    return {name: [values[block] for block in kept_layers] for name, values in lists.items()} | counts


def keeps_period(config: PretrainedConfig) -> bool:
    """Whether the kinds of blocks alternate as programs take for granted that do not read the list of them."""
    period = family_of(config).period
    return period is None or period.kept_by(getattr(config, period.listed))
