"""Rotary constants in the two forms that configs state them: one mapping, and entries of their own.

Since transformers 5 a config has ``rope_parameters``; every version before it, and most other programs, read
``rope_theta``, ``rope_scaling`` and their like, and take a default where these are missing, without a word. A config
that everybody reads has both forms. A family says which entries its own config class had before (``Family.rotary``).
"""

from collections.abc import Callable, Mapping
from typing import Any

Entries = dict[str, Any]
"""Entries of a config."""
RotaryForm = Callable[[Mapping[str, Any]], Entries]
"""From the entries of a config, ``rope_parameters`` among them, to those that earlier versions read."""

FORMS = (
    *("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor"),
    *("rope_local_base_freq", "rotary_emb_base", "rotary_pct"),
)
"""Every entry, of any version and family, that states a rotary constant."""

_WITHOUT_SCALING = ("default", "proportional")
_FULL, _SLIDING = "full_attention", "sliding_attention"
# Versions that read this compute with a base of None, which fails at once; transformers 5 has it from the other form.
_REFUSED = {"rope_theta": None, "rope_scaling": None}


def one_base(entries: Mapping[str, Any]) -> Entries:
    """The form of most classes: a base, a scaling, and the rotated part of a head where that is not all of it.

    What it cannot say is written so that those who read it refuse the model, instead of computing something else.
    """
    rope = dict(entries["rope_parameters"])
    if "rope_theta" not in rope or not _same_before(rope, entries):
        return dict(_REFUSED)
    found: Entries = {"rope_theta": rope["rope_theta"], "rope_scaling": _scaling(rope, entries)}
    if rope.get("partial_rotary_factor") is not None:
        found["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if rope["rope_type"] == "longrope":  # it was read from here alone
        found["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return found


def type_and_factor(entries: Mapping[str, Any]) -> Entries:
    """The form of olmo2: ``one_base`` with a scaling of exactly two entries, ``type`` and ``factor``."""
    found = one_base(entries)
    if found["rope_scaling"] is not None and found["rope_scaling"].keys() == {"rope_type", "factor"}:
        scaling = found["rope_scaling"]
        found["rope_scaling"] = {"type": scaling["rope_type"], "factor": float(scaling["factor"])}
    return found


def type_and_factors(entries: Mapping[str, Any]) -> Entries:
    """The form of phi3: ``one_base`` with a scaling of exactly three entries, and the first length on its own."""
    found = one_base(entries)
    scaling = found["rope_scaling"]
    if scaling is not None and scaling["rope_type"] == "longrope":
        first = scaling.pop("original_max_position_embeddings")
        found["rope_scaling"] = {"type": scaling.pop("rope_type"), **scaling}
        found["original_max_position_embeddings"] = first
    return found


def two_bases(entries: Mapping[str, Any]) -> Entries:
    """The form of gemma3: a base for blocks with a sliding window, and base and scaling for the others."""
    rope = entries["rope_parameters"]
    full, sliding = rope[_FULL], rope[_SLIDING]
    found = one_base({**entries, "rope_parameters": full})
    if sliding["rope_type"] not in _WITHOUT_SCALING:
        return {**_REFUSED, "rope_local_base_freq": None}
    return {**found, "rope_local_base_freq": sliding["rope_theta"]}


def base_and_fraction(entries: Mapping[str, Any]) -> Entries:
    """The form of gpt_neox, which has names of its own for the base and for the rotated part of a head."""
    found = one_base(entries)
    part = entries["rope_parameters"]["partial_rotary_factor"]
    return {**found, "rotary_emb_base": found["rope_theta"], "rotary_pct": part}


def _scaling(rope: Mapping[str, Any], entries: Mapping[str, Any]) -> Entries | None:
    """What scales the base, as one mapping; None where nothing does."""
    if rope["rope_type"] in _WITHOUT_SCALING:
        return None
    # Of the two names of its kind the first is read by all that know scaling; with both, transformers 5 warns.
    scaling = {
        name: value
        for name, value in rope.items()
        if name not in ("type", "rope_theta", "partial_rotary_factor")
    }
    if rope["rope_type"] == "yarn" and scaling.get("factor") is None:
        scaling["factor"] = _stretch(rope, entries)  # which transformers 5 infers
    return scaling


def _same_before(rope: Mapping[str, Any], entries: Mapping[str, Any]) -> bool:
    """Whether earlier versions compute with these constants what transformers 5 does."""
    if rope["rope_type"] == "proportional":
        return False
    # Earlier versions took the factor of longrope from the lengths alone.
    factor = rope.get("factor")
    inferred = rope["rope_type"] != "longrope" or factor is None or rope.get("attention_factor") is not None
    return inferred or factor == _stretch(rope, entries)


def _stretch(rope: Mapping[str, Any], entries: Mapping[str, Any]) -> float:
    """How many times longer texts are than those that the model was first trained on."""
    return float(entries["max_position_embeddings"] / rope["original_max_position_embeddings"])
