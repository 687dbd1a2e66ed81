"""Whether what a config says can be a model at all, asked of its values before anything is built from them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

from shear_lit.models.source_files import CONFIG, KEY, SourceError

_MOST = {
    "num_hidden_layers": 1000,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**13,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**31,
}
"""Sizes and the largest that are taken: several times those of the largest models. Empty models are built of them."""
_MAY_BE_NULL = ("num_key_value_heads", "head_dim")
_MOST_LABELS, _MOST_LISTED = 2**20, 10_000
"""Config classes make a list of as many entries as there are labels, and blocks of whatever name."""
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_FRACTIONS = ("partial_rotary_factor", "rotary_pct")
_POSITIVE = (
    *("rope_theta", "rotary_emb_base", "rope_local_base_freq", "original_max_position_embeddings"),
    *("factor", "low_freq_factor", "high_freq_factor", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping"),
)
_RETURNED = {"return_dict": True, "output_attentions": False}
"""What a model returns, which no config may change."""


def check_entries(entries: Mapping[str, Any], source: str) -> None:
    """Refuse the entries of a ``config.json`` that no config class should be asked to read.

    Raises:
        SourceError: the model is quantised, or a value cannot be one of a model.
    """
    if not isinstance(entries.get("model_type"), str):
        raise SourceError(
            f"{source!r}: its {CONFIG} has no model_type, which says what kind of model it is. Get the file again.",
            key=KEY,
        )
    for name in ("quantization_config", "compression_config"):
        if entries.get(name):
            found = entries[name]
            method = found.get("quant_method") if isinstance(found, dict) else None
            raise SourceError(
                f"{source!r} is quantised ({name}, {f'quant_method={method!r}' if method else 'no quant_method'}): "
                f"rounded weights are neither trained nor cut. Use the model before it was quantised.",
                key=KEY,
            )
    if entries.get("transformers_weights") is not None:
        raise SourceError(
            f"{source!r}: its {CONFIG} says transformers_weights={entries['transformers_weights']!r}, a file of "
            f"another name than usual, which not every program reads. Rename the file, and remove that entry.",
            key=KEY,
        )
    check_values(entries, source)


def check_config(config: PretrainedConfig, source: str, *, for_training: bool = True) -> None:
    """The same for all values, those that the config class fills in among them, and whether they go together.

    A model that is only measured (``for_training=False``) may have dropout, which then has no effect: OPT's has.

    Raises:
        SourceError: a value cannot be one of a model, two of them do not go together, or there is dropout.
    """
    entries = config.to_dict()
    check_values(entries, source)
    window = entries.get("sliding_window")
    if window is not None and hasattr(type(config), "sliding_window"):
        _check_count("sliding_window", window, 2**31, source)
    for name, value in _RETURNED.items():
        if entries.get(name, value) is not value:
            raise _odd(
                name, entries[name], f"it must be {str(value).lower()} for a model to be used here", source
            )
    _check_heads(entries, source)
    _check_token_ids(entries, source)
    if for_training:
        _refuse_dropout(config, entries, source)


def check_values(entries: Mapping[str, Any], source: str) -> None:
    """Refuse values that would take a program hours or all of the memory, and those that no arithmetic goes with.

    Raises:
        SourceError: there is one.
    """
    for name, most in _MOST.items():
        if name in entries and not (entries[name] is None and name in _MAY_BE_NULL):
            _check_count(name, entries[name], most, source)
    for name, value in _all_entries(entries):
        _check_value(name, value, source)
    if not isinstance(entries.get("tie_word_embeddings", False), bool):
        raise _odd("tie_word_embeddings", entries["tie_word_embeddings"], "it is true or false", source)


def _check_value(name: str, value: Any, source: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        raise _odd(name, value, "a value of a model is a finite number", source)
    if name == "num_labels" and number and not 0 <= value <= _MOST_LABELS:
        raise _odd(name, value, f"it is at most {_MOST_LABELS:,}", source)
    if "layer" in name and isinstance(value, int) and value > _MOST_LISTED:
        raise _odd(name, value, f"no model has more than {_MOST_LISTED:,} blocks", source)
    if name.endswith(("_eps", "epsilon")) and not (number and 0 <= value < 1):
        raise _odd(name, value, "what is added before a division lies in [0, 1)", source)
    if name in _FRACTIONS and value is not None and not (number and 0 < value <= 1):
        raise _odd(name, value, "the part of a head that is rotated lies in (0, 1]", source)
    if name in _POSITIVE and value is not None and not (number and 0 < value <= 2**60):
        raise _odd(name, value, "it is a positive number", source)
    if name == "rope_type" and not isinstance(value, str):
        raise _odd(name, value, "it is the name of a kind of rotary embedding", source)


def _all_entries(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every name and value, those in nested mappings and lists too."""
    for name, value in entries.items():
        yield str(name), value
        pending = [value]
        while pending:
            inner = pending.pop()
            if isinstance(inner, Mapping):
                yield from _all_entries(inner)
            elif isinstance(inner, list | tuple):
                pending += inner
            elif inner is not value and isinstance(inner, float):
                yield f"{name}[]", inner


def _check_count(name: str, value: Any, most: int, source: str) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise _odd(name, value, f"it is a whole number from 1 to {most:,}", source)


def _check_heads(entries: Mapping[str, Any], source: str) -> None:
    heads, groups = entries.get("num_attention_heads"), entries.get("num_key_value_heads")
    hidden = entries.get("hidden_size")
    if heads and groups and heads % groups:
        raise _odd(
            "num_key_value_heads", groups, f"num_attention_heads={heads} must be a multiple of it", source
        )
    if heads and hidden and not entries.get("head_dim") and hidden % heads:
        raise _odd("hidden_size", hidden, f"it must be a multiple of num_attention_heads={heads}", source)


def _check_token_ids(entries: Mapping[str, Any], source: str) -> None:
    vocabulary = entries.get("vocab_size")
    for name in _TOKENS:
        value = entries.get(name)
        ids = value if isinstance(value, list) else [value]
        for token in ids:
            if token is None and value is None:
                continue
            if type(token) is not int or not (vocabulary is None or 0 <= token < vocabulary):
                raise _odd(name, value, f"the model knows the tokens 0 to {(vocabulary or 0) - 1}", source)


def _refuse_dropout(config: PretrainedConfig, entries: Mapping[str, Any], source: str) -> None:
    """Dropout in training would make a gate's worth a matter of luck; what is no entry of the class has no effect."""
    for name, value in entries.items():
        is_dropout = "dropout" in name or name.endswith("pdrop")
        if is_dropout and value and hasattr(type(config), name) and not name.startswith("classifier"):
            raise SourceError(
                f"{source!r}: its {CONFIG} says {name}={value}: models are trained without dropout here, and gates "
                f'measured without it. Say "{name}": 0.0 there.',
                key=KEY,
            )


def _odd(name: str, value: Any, rule: str, source: str) -> SourceError:
    shown = repr(value)
    return SourceError(
        f"{source!r}: its {CONFIG} says {name}={shown if len(shown) <= 80 else f'{shown[:80]}...'}: {rule}. "
        f"Get the file again, or correct it.",
        key=KEY,
    )
