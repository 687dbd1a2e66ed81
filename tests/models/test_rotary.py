"""Rotary constants in the form that versions before transformers 5 read, which is read here as those versions did."""

import pytest
from transformers import AutoConfig

from shear_lit.models.config_file import config_entries
from tests.toy_families import ONE_OF_EACH

BASES = {"smollm3": 2e6, "gemma3_text": 1e6}
"""What the classes of transformers 4.57 take for the base where a config states none; all others take 10,000."""
LENGTH, FIRST_LENGTH = 64, 32
KINDS = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": FIRST_LENGTH,
    },
    "yarn": {"factor": 2.0, "beta_fast": 16.0, "original_max_position_embeddings": FIRST_LENGTH},
    "longrope": {
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": FIRST_LENGTH,
    },
}
"""Every kind of scaling, with numbers that are no defaults."""
FORMS = {form.family: form for form in ONE_OF_EACH}
CASES = [
    (family, kind)
    for family in FORMS
    for kind in KINDS
    if family != "phi3" or kind in ("default", "longrope")
]


class Refused(Exception):
    """What transformers 4.57 does not read."""


def config_of_kind(family, kind):
    numbers = {"rope_type": kind, **KINDS[kind]}
    base = {**numbers, "rope_theta": 500.0}
    changes = {"max_position_embeddings": LENGTH}
    if family == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": 50.0}
        return FORMS[family].config(
            rope_parameters={"full_attention": base, "sliding_attention": local}, **changes
        )
    if family in ("gpt_neox", "phi3"):
        base["partial_rotary_factor"] = 0.5 if kind != "longrope" else 1.0
    if family == "phi3":
        # The heads must be together as wide as the stream here; its first length stands in the config alone.
        base.pop("original_max_position_embeddings", None)
        changes |= {"hidden_size": 32, "original_max_position_embeddings": FIRST_LENGTH}
    return FORMS[family].config(rope_parameters=base, **changes)


def read_before_5(entries):
    """The constants that the classes of transformers 4.57 compute with: base, part, numbers, base of sliding blocks."""
    family = entries["model_type"]
    scaling = entries.get("rope_scaling")
    if scaling is not None and family == "olmo2" and scaling.keys() != {"type", "factor"}:
        raise Refused("olmo2 asks for exactly type and factor")
    if scaling is not None and family == "phi3" and scaling.keys() != {"type", "short_factor", "long_factor"}:
        raise Refused("phi3 asks for exactly three entries")
    if family == "gpt_neox":
        base, part = entries.get("rotary_emb_base", 1e4), entries.get("rotary_pct", 0.25)
    else:
        base = entries.get("rope_theta", BASES.get(family, 1e4))
        part = entries.get("partial_rotary_factor", 1.0)
    if base is None:
        raise Refused("None ** x")
    local = entries.get("rope_local_base_freq", 1e4) if family == "gemma3_text" else None
    numbers = dict(scaling or {"rope_type": "default"})
    kind = numbers.pop("rope_type", None) or numbers.pop("type")
    if kind == "longrope":  # ... whose first length was read from the config itself
        numbers["original_max_position_embeddings"] = entries.get("original_max_position_embeddings", LENGTH)
    return base, part, {"rope_type": kind, **numbers}, local


def stated(config):
    """The same constants as the live config has them."""
    rope, local = config.rope_parameters, None
    if config.model_type == "gemma3_text":
        rope, local = rope["full_attention"], rope["sliding_attention"]["rope_theta"]
    numbers = {
        name: value
        for name, value in rope.items()
        if name not in ("rope_theta", "partial_rotary_factor", "type")
    }
    return rope["rope_theta"], rope.get("partial_rotary_factor", 1.0), numbers, local


@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: value)
def test_earlier_versions_read_the_constants_of_the_model_or_refuse_it(family, kind):
    config = config_of_kind(family, kind)
    entries = config_entries(config, dtype="float32")
    if family == "olmo2" and kind not in ("default", "linear", "dynamic"):
        with pytest.raises(Refused):  # its class knew no other kinds
            read_before_5(entries)
        return
    assert read_before_5(entries) == stated(config)


@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: value)
def test_both_forms_together_read_as_the_mapping_alone(family, kind):
    config = config_of_kind(family, kind)
    entries = config_entries(config, dtype="float32")
    assert entries["rope_parameters"] == config.to_dict()["rope_parameters"]
    read = AutoConfig.for_model(**entries)
    assert stated(read) == stated(config)


@pytest.mark.parametrize("family", FORMS)
def test_config_without_the_earlier_form_is_read_wrong(family):
    """The twin: what exports had before."""
    config = config_of_kind(family, "longrope" if family == "phi3" else "linear")
    entries = config_entries(config, dtype="float32")
    for name in ("rope_theta", "rotary_emb_base", "rope_scaling", "rope_local_base_freq"):
        entries.pop(name, None)
    assert read_before_5(entries) != stated(config)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_type": "longrope", "factor": 3.0}),
        ("gemma3_text", {"rope_type": "linear", "factor": 2.0}),
    ],
)
def test_what_earlier_versions_cannot_say_is_refused_by_them(family, changes):
    """A factor that is not the ratio of the lengths; a scaling of the blocks with a window."""
    config = config_of_kind(family, "longrope" if family == "llama" else "default")
    rope = config.rope_parameters
    (rope if family == "llama" else rope["sliding_attention"]).update(changes)
    entries = config_entries(config, dtype="float32")
    with pytest.raises(Refused):
        read_before_5(entries)
    assert stated(AutoConfig.for_model(**entries)) == stated(config)
    assert AutoConfig.for_model(**entries).rope_parameters == rope


def test_yarn_without_a_factor_is_written_with_the_one_that_is_inferred():
    config = config_of_kind("qwen3", "yarn")
    del config.rope_parameters["factor"]
    assert config_entries(config, dtype="float32")["rope_scaling"]["factor"] == LENGTH / FIRST_LENGTH
