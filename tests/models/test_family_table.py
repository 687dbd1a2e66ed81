"""The table covers every tensor dimension of a live model except the vocabulary, exactly once."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from shear_lit.models import qwen3
from shear_lit.models.family import Family, units_along
from shear_lit.models.registry import FAMILIES, family_of, tensor_sizes
from tests.toy_families import FORMS, Form, model_of
from tests.toy_models import VARIANTS, VOCABULARY, Variant, toy_config, toy_model


def complaints(family: Family, sizes: dict[str, tuple[int, ...]]) -> list[str]:
    """Where the table and the tensors disagree."""
    patterns = {family.pattern(name)[0] for name in sizes}
    named = [cut.tensor for cut in family.cuts] + list(family.untouched)
    found = [f"{name} is in no tensor" for name in named if name not in patterns]
    for name, size in sizes.items():
        cuts = family.cuts_of(name)
        if family.pattern(name)[0] in family.untouched:
            found += [f"{name} is cut, and untouched"] * bool(cuts)
            continue
        for dim, length in enumerate(size):
            end = 0
            for cut in (cut for cut in cuts if cut.dim == dim):
                if cut.offset != end:
                    found.append(
                        f"a piece of dimension {dim} of {name} begins at {cut.offset}, and not at {end}"
                    )
                end += units_along(family.shape, cut.axis) * cut.entries
            if end != (0 if length == VOCABULARY else length):
                found.append(f"cuts of dimension {dim} of {name} cover {end} of {length} entries")
    return found


def live_sizes(form: Form | Variant) -> dict[str, tuple[int, ...]]:
    model = model_of(form) if isinstance(form, Form) else toy_model(toy_config(form))
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def table_of(form: Form | Variant) -> Family:
    return family_of(form.config() if isinstance(form, Form) else toy_config(form))


@pytest.mark.parametrize("form", [*VARIANTS, *FORMS], ids=str)
def test_table_covers_every_dimension_but_the_vocabulary_exactly_once(form):
    assert complaints(table_of(form), live_sizes(form)) == []


@pytest.mark.parametrize("form", [*VARIANTS, *FORMS], ids=str)
def test_table_without_any_one_cut_or_with_one_twice_or_moved_does_not_cover(form):
    """The twin: each cut is needed, once, where it is."""
    family, sizes = table_of(form), live_sizes(form)
    for index, cut in enumerate(family.cuts):
        rest = (*family.cuts[:index], *family.cuts[index + 1 :])
        for cuts in (rest, (*family.cuts, cut), (*rest, replace(cut, offset=cut.offset + 1))):
            assert complaints(replace(family, cuts=cuts), sizes), cut


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_table_without_any_one_untouched_tensor_does_not_cover(form):
    family, sizes = table_of(form), live_sizes(form)
    for name in family.untouched:
        rest = tuple(other for other in family.untouched if other != name)
        assert complaints(replace(family, untouched=rest), sizes), name


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_table_names_every_norm_over_units_that_can_go_and_every_bias_carries_what_its_weight_does(form):
    family, model = table_of(form), model_of(form)
    norms = {
        family.pattern(name)[0]
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    }
    within_heads = {name.removesuffix(".weight") for name in family.untouched}
    assert {norm.module for norm in family.norms} | within_heads == norms
    carried = {(cut.tensor, cut.dim): cut.carries for cut in family.cuts}
    for (tensor, _), carries in carried.items():
        if tensor.endswith(".bias"):
            assert carried[tensor.removesuffix("bias") + "weight", 0] == carries, tensor


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


PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_family.md").read_text()


def test_page_walks_through_the_file_as_it_is():
    walked = PAGE.partition("```python\ndef qwen3")[2].partition("```")[0]
    assert "def qwen3" + walked in Path(qwen3.__file__).read_text()


def test_page_lists_every_family():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == set(FAMILIES)
