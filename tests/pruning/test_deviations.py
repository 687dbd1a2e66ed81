"""What the authors' release does otherwise, shown to be wrong or absent there and right here (docs/deviations.md)."""

from dataclasses import replace

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import AttachedGates
from shear_lit.pruning.gates import Gates
from shear_lit.theory.shape import Axis, ModelShape
from tests.toy_models import (
    TARGET,
    Variant,
    carved_logits,
    carved_model,
    gated_logits,
    random_gates,
    shrunk,
    toy_config,
    toy_ids,
    toy_model,
)

MHA_UNTIED = Variant(grouped=False, tied=False, biased=False)
GQA_UNTIED = Variant(grouped=True, tied=False, biased=False)


pytestmark = pytest.mark.usefixtures("float64_norms")


def hidden_gates(variant: Variant, *, soft: bool = True):
    source = family_of(toy_config(variant)).shape
    return random_gates(
        source, shrunk(source, TARGET[variant.grouped], (Axis.HIDDEN,)), (Axis.HIDDEN,), soft=soft
    )


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_d2_embedding_is_gated_while_training_as_it_is_when_cut(tied, soft, monkeypatch):
    """In the release it is multiplied before the gates exist: what trains is not what is cut."""
    variant = replace(MHA_UNTIED, tied=tied)
    model, ids, values = toy_model(toy_config(variant)), toy_ids(), hidden_gates(variant, soft=soft)
    carved = carved_logits(model, values, ids)
    torch.testing.assert_close(gated_logits(model, values, ids), carved, rtol=0, atol=1e-10)
    monkeypatch.setattr(AttachedGates, "_embed", lambda self, module, ids: type(module).forward(module, ids))
    as_released = gated_logits(model, values, ids)
    assert (as_released - carved).abs().max() > 0.01 * carved.abs().max()


def test_d3_the_cut_folds_the_hidden_gate_into_the_end_of_the_model_once():
    """In the release the last norm and the head both carry it."""
    model, ids, values = toy_model(toy_config(MHA_UNTIED)), toy_ids(), hidden_gates(MHA_UNTIED)
    family = family_of(model.config)
    twice = replace(
        family,
        cuts=tuple(
            replace(cut, carries=(Axis.HIDDEN,)) if cut.tensor == "lm_head.weight" else cut
            for cut in family.cuts
        ),
    )
    gated = gated_logits(model, values, ids)
    torch.testing.assert_close(gated, carved_logits(model, values, ids), rtol=0, atol=1e-10)
    as_released = carved_logits(model, values, ids, family=twice)
    assert (as_released - gated).abs().max() > 0.01 * gated.abs().max()


def test_d3_with_a_tied_head_the_shared_matrix_carries_the_gate_and_the_last_norm_does_not():
    variant = replace(MHA_UNTIED, tied=True)
    model, ids, values = toy_model(toy_config(variant)), toy_ids(), hidden_gates(variant)
    family = family_of(model.config)
    twice = replace(
        family,
        cuts=tuple(
            replace(cut, carries=(Axis.HIDDEN,)) if cut.tensor == "model.norm.weight" else cut
            for cut in family.cuts
        ),
    )
    gated = gated_logits(model, values, ids)
    torch.testing.assert_close(gated, carved_logits(model, values, ids), rtol=0, atol=1e-10)
    as_released = carved_logits(model, values, ids, family=twice)
    assert (as_released - gated).abs().max() > 0.01 * gated.abs().max()


def test_d6_a_kv_head_goes_with_all_of_its_query_heads():
    model = toy_model(toy_config(GQA_UNTIED))
    source = family_of(model.config).shape
    values = {Axis.KV_HEADS: torch.ones(source.gate_shape(Axis.KV_HEADS), dtype=torch.float64)}
    values[Axis.KV_HEADS][:, 1:3] = 0
    small = carved_model(model, values)
    assert family_of(small.config).shape == ModelShape(
        layers=4, hidden=48, query_heads=6, kv_heads=2, intermediate=40
    )
    attention, carved = model.model.layers[2].self_attn, small.model.layers[2].self_attn
    # A head is 6 entries: KV heads 1 and 2 are entries 6 to 17, their query heads 3 to 8 are entries 18 to 53.
    keys = torch.cat([attention.k_proj.weight[:6], attention.k_proj.weight[18:]])
    queries = torch.cat([attention.q_proj.weight[:18], attention.q_proj.weight[54:]])
    assert torch.equal(carved.k_proj.weight, keys)
    assert torch.equal(carved.q_proj.weight, queries)


def test_d6_query_heads_go_within_a_group_and_each_group_chooses_its_own():
    model, ids = toy_model(toy_config(GQA_UNTIED)), toy_ids()
    source = family_of(model.config).shape
    gates = torch.ones(source.gate_shape(Axis.QUERY_HEADS), dtype=torch.float64)
    for group, dropped in enumerate((0, 1, 2, 1)):
        gates[:, group, dropped] = 0
    values = {Axis.QUERY_HEADS: gates}
    small = carved_model(model, values)
    assert family_of(small.config).shape == ModelShape(
        layers=4, hidden=48, query_heads=8, kv_heads=4, intermediate=40
    )
    attention, carved = model.model.layers[0].self_attn, small.model.layers[0].self_attn
    heads = attention.q_proj.weight.view(12, 6, 48)[[1, 2, 3, 5, 6, 7, 9, 11]]
    assert torch.equal(carved.q_proj.weight, heads.flatten(0, 1))
    assert torch.equal(carved.k_proj.weight, attention.k_proj.weight)
    torch.testing.assert_close(
        gated_logits(model, values, ids), carved_logits(model, values, ids), rtol=0, atol=1e-10
    )


def test_d6_numbering_kept_heads_without_their_group_breaks_the_cut(monkeypatch):
    """The twin: heads numbered within their group and taken as if numbered within the block."""
    from shear_lit.pruning import carve as carve_module

    model, ids = toy_model(toy_config(GQA_UNTIED)), toy_ids()
    source, axes = family_of(model.config).shape, (Axis.QUERY_HEADS,)
    values = random_gates(source, shrunk(source, TARGET[True], axes), axes)
    gated, right = gated_logits(model, values, ids), carve_module.kept_units

    def without_groups(values, source):
        kept = right(values, source)
        return replace(kept, query_heads=kept.query_heads % source.queries_per_group)

    monkeypatch.setattr(carve_module, "kept_units", without_groups)
    assert (carved_logits(model, values, ids) - gated).abs().max() > 0.01 * gated.abs().max()


def test_d6_for_a_model_without_groups_the_kv_axis_is_the_head_axis():
    """One gate per head, as in the release."""
    model = toy_model(toy_config(MHA_UNTIED))
    source = family_of(model.config).shape
    assert source.units(Axis.QUERY_HEADS) == 1
    gates = Gates(source, (Axis.KV_HEADS,))
    assert gates.get_parameter("kv_heads").shape == (source.layers, source.query_heads)
    values = random_gates(
        source, shrunk(source, TARGET[False], (Axis.KV_HEADS,)), (Axis.KV_HEADS,), soft=False
    )
    small = carved_model(model, values)
    for block in range(source.layers):
        kept = values[Axis.KV_HEADS][block].nonzero().flatten()
        for name in ("q_proj", "k_proj", "v_proj"):
            before = model.model.layers[block].self_attn.get_submodule(name).weight.view(6, 6, 48)
            after = small.model.layers[block].self_attn.get_submodule(name).weight
            assert torch.equal(after, before[kept].flatten(0, 1))
