"""The table covers every tensor dimension of a live model except the vocabulary, exactly once."""

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from shear_lit.models.family import Family, FamilyError, units_along
from shear_lit.models.registry import family_of, tensor_sizes
from tests.toy_models import VARIANTS, VOCABULARY, Variant, toy_config, toy_model


def complaints(family: Family, sizes: dict[str, tuple[int, ...]]) -> list[str]:
    """Where the table and the tensors disagree."""
    found = [
        f"{cut.tensor} is in no tensor"
        for cut in family.cuts
        if not any(cut in family.cuts_of(name) for name in sizes)
    ]
    for name, size in sizes.items():
        for dim, length in enumerate(size):
            cuts = [cut for cut in family.cuts_of(name) if cut.dim == dim]
            if len(cuts) != (length != VOCABULARY):
                found.append(f"dimension {dim} of {name} has {len(cuts)} cuts")
            if any(units_along(family.shape, cut.axis) * cut.entries != length for cut in cuts):
                found.append(f"dimension {dim} of {name} has {length} entries")
    return found


def live_sizes(variant: Variant) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in toy_model(toy_config(variant)).named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_table_covers_every_dimension_but_the_vocabulary_exactly_once(variant):
    assert complaints(family_of(toy_config(variant)), live_sizes(variant)) == []


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_table_without_any_one_cut_or_with_one_twice_does_not_cover(variant):
    """The twin: each cut is needed, once."""
    family, sizes = family_of(toy_config(variant)), live_sizes(variant)
    for index, cut in enumerate(family.cuts):
        rest = (*family.cuts[:index], *family.cuts[index + 1 :])
        assert complaints(replace(family, cuts=rest), sizes)
        assert complaints(replace(family, cuts=(*family.cuts, cut)), sizes)


def test_table_with_another_head_size_does_not_cover():
    variant = VARIANTS[0]
    wrong = family_of(toy_config(variant, head_dim=8))
    assert complaints(wrong, live_sizes(variant))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_norms_and_embedding_of_the_table_exist_in_the_live_model(variant):
    family, model = family_of(toy_config(variant)), toy_model(toy_config(variant))
    patterns = {family.pattern(name)[0] for name, _ in model.named_modules()}
    assert {norm.module for norm in family.norms} | {family.embedding} <= patterns
    live_norms = {
        family.pattern(name)[0]
        for name, module in model.named_modules()
        if type(module).__name__ == "LlamaRMSNorm"
    }
    assert live_norms == {norm.module for norm in family.norms}


def test_tensor_sizes_on_meta_are_those_of_the_live_model():
    for variant in VARIANTS:
        assert tensor_sizes(toy_config(variant)) == live_sizes(variant)


def test_tensor_sizes_take_no_memory_for_weights():
    """A model whose weights would take 1.4 TB."""
    config = LlamaConfig(
        hidden_size=65536, intermediate_size=4 * 65536, num_hidden_layers=8, num_attention_heads=512
    )
    assert tensor_sizes(config)["lm_head.weight"] == (32000, 65536)


def test_pattern_replaces_the_block_index_and_nothing_else():
    family = family_of(toy_config())
    assert family.pattern("model.layers.12.mlp.up_proj.weight") == ("model.layers.*.mlp.up_proj.weight", 12)
    assert family.pattern("model.norm.weight") == ("model.norm.weight", None)


def test_family_of_refuses_a_model_type_without_a_table():
    with pytest.raises(FamilyError) as refusal:
        family_of(GPT2Config())
    message = str(refusal.value)
    assert "model.source" in message  # the key
    assert "model_type='gpt2'" in message  # the value
    assert "no family table" in message  # the rule
    assert "llama" in message and "Use such a model" in message  # the repair


def test_sizes_of_the_table_are_those_of_the_config():
    family = family_of(toy_config())
    assert family.shape.to_dict() == {
        "layers": 4,
        "hidden": 48,
        "query_heads": 12,
        "kv_heads": 4,
        "intermediate": 40,
    }
    assert family.head_size == 6


def test_head_size_follows_from_the_config_where_it_is_not_explicit():
    with torch.device("meta"):
        assert family_of(toy_config(head_dim=None)).head_size == 4
