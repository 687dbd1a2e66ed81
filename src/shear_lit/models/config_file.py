"""The ``config.json`` of a model as every version of transformers, and programs that follow it, read it.

A config class writes what its own version needs, and leaves out what agrees with its defaults. Other versions have
other names and other defaults, which they take without a word: so everything is written, under every name it has had.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

from shear_lit.models.family import Family
from shear_lit.models.registry import family_of
from shear_lit.models.rotary import FORMS

_STALE = ("quantization_config", "auto_map", "transformers_weights")
"""Entries that describe the files of the model that it was made of, not its arithmetic."""
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def config_entries(config: PretrainedConfig, *, dtype: str) -> dict[str, Any]:
    """The entries of ``config.json`` for a model whose weights are stored in ``dtype``.

    How it generates stands elsewhere (``generation_entries``): transformers 5 saves no model that has it here.
    """
    entries, everybodys = config.to_dict(), PretrainedConfig().to_dict()
    left_out = {*_STALE, *FORMS, *_generation_names()}
    own = {
        name: value
        for name, value in entries.items()
        if not name.startswith("_")
        and name not in left_out
        and (name not in everybodys or value != everybodys[name])
    }
    family = family_of(config)
    return {
        **own,
        **_stated_period(family, entries),
        "model_type": config.model_type,
        "dtype": dtype,
        "torch_dtype": dtype,
        "rope_parameters": entries["rope_parameters"],
        **family.rotary(entries),
    }


def _stated_period(family: Family, entries: Mapping[str, Any]) -> dict[str, None]:
    """The entry that states how the kinds of blocks alternate, as null where they do not.

    Versions that read no list compute with that entry, and cannot with null: they refuse the model.
    """
    period = family.period
    if period is None or period.stated is None:
        return {}
    stated = replace(period, blocks=entries.get(period.stated) or period.blocks)
    return {} if stated.kept_by(entries[period.listed]) else {period.stated: None}


def generation_entries(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``generation_config.json`` for a model without one: what its ``config.json`` says of it.

    It could before transformers 5, which does not read it there.
    """
    names = (*_TOKENS, *sorted(_generation_names()))
    return {name: entries[name] for name in names if entries.get(name) is not None}


def _generation_names() -> set[str]:
    everybodys = PretrainedConfig().to_dict().keys()
    return GenerationConfig().to_dict().keys() - everybodys - {"use_cache", *_TOKENS}
