"""Gated forward == forward of the carved model == forward of the reloaded model; each with twins that must fail.

With norms and softmax in float64 on both sides the bound is absolute; the stock norm and the eager softmax
detour through float32, where the bound is relative to the logits' scale.
"""

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.models.registry import family_of
from shear_lit.pruning import vectors
from shear_lit.pruning.attach import AttachedGates
from shear_lit.pruning.gated import NormGates
from shear_lit.pruning.gates import Gates
from shear_lit.theory.shape import Axis
from tests.toy_models import (
    SOME_VARIANTS,
    TARGET,
    VARIANTS,
    Variant,
    carved_logits,
    carved_model,
    gated_logits,
    random_gates,
    shrunk,
    tables_with_one_carry_less,
    toy_config,
    toy_ids,
    toy_model,
)

FLOAT64_BOUND = 1e-10
STOCK_BOUND = 1e-6  # of the largest logit
BROKEN = 1e-3  # a twin must be wrong by at least this share of the largest logit

AXES = [None, *Axis]
"""One axis alone, or (None) all together."""


def axes_of(variant: Variant, axis: Axis | None) -> tuple[Axis, ...]:
    if axis is None:
        return variant.axes
    if axis not in variant.axes:
        pytest.skip("a group of one query head cannot lose it: kv_heads is the head axis of this variant")
    return (axis,)


def gates_for(variant: Variant, axes: tuple[Axis, ...], *, soft: bool = True, **changes):
    source = family_of(toy_config(variant)).shape
    return random_gates(source, shrunk(source, TARGET[variant.grouped], axes), axes, soft=soft, **changes)


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference as a share of the largest logit."""
    return float((left - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.value if axis else "all")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gated_equals_carved_in_float64(variant, axis, soft, float64_norms):
    values = gates_for(variant, axes_of(variant, axis), soft=soft)
    model, ids = toy_model(toy_config(variant)), toy_ids()
    gated, carved = gated_logits(model, values, ids), carved_logits(model, values, ids)
    torch.testing.assert_close(gated, carved, rtol=0, atol=FLOAT64_BOUND)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.value if axis else "all")
@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=str)
def test_gated_equals_carved_with_the_stock_classes(variant, axis, soft, attention):
    values = gates_for(variant, axes_of(variant, axis), soft=soft)
    model, ids = toy_model(toy_config(variant, attn_implementation=attention)), toy_ids()
    assert difference(gated_logits(model, values, ids), carved_logits(model, values, ids)) <= STOCK_BOUND


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gated_equals_carved_with_stock_weights_in_float32(variant):
    """Everything in float32: sums of other lengths round otherwise in every layer, hence a wider bound."""
    values = gates_for(variant, variant.axes, dtype=torch.float32)
    model, ids = toy_model(toy_config(variant), dtype=torch.float32), toy_ids()
    assert difference(gated_logits(model, values, ids), carved_logits(model, values, ids)) <= 5 * STOCK_BOUND


def test_gates_of_the_module_at_a_target_leave_exactly_that_target(float64_norms):
    """The gates that training learns, evaluated at the target, not ones made for a test."""
    variant = SOME_VARIANTS[0]
    model, ids, target = toy_model(toy_config(variant)), toy_ids(), TARGET[variant.grouped]
    gates = Gates(family_of(model.config).shape, variant.axes)
    torch.manual_seed(3)
    for parameter in gates.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    values = {axis: gate.detach().double() for axis, gate in gates(target=target).values.items()}
    torch.testing.assert_close(
        gated_logits(model, values, ids), carved_logits(model, values, ids), rtol=0, atol=FLOAT64_BOUND
    )
    assert family_of(carved_model(model, values).config).shape == target


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=str)
def test_carved_equals_reloaded_bitwise(variant, dtype, tmp_path):
    model, ids = toy_model(toy_config(variant), dtype=torch.float32), toy_ids()
    small = carved_model(model, gates_for(variant, variant.axes, dtype=torch.float32), dtype=dtype)
    small.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    assert reloaded.dtype == dtype
    before, after = small.state_dict(), reloaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(small(ids).logits, reloaded(ids).logits)


@pytest.mark.parametrize(
    "forgotten",
    [
        {"rms_norm_eps": 1e-6},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ],
    ids=["epsilon", "rope"],
)
def test_reloaded_with_a_config_that_forgot_an_entry_differs(forgotten, tmp_path):
    """The twin: the toy config differs from the defaults where it matters."""
    variant, ids = SOME_VARIANTS[0], toy_ids()
    model = toy_model(toy_config(variant), dtype=torch.float32)
    values = gates_for(variant, variant.axes, dtype=torch.float32)
    small = carved_model(model, values, dtype=torch.float32)
    small.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, **forgotten).eval()
    with torch.no_grad():
        assert difference(reloaded(ids).logits, small(ids).logits) > 100 * STOCK_BOUND


# Twins: each breaks one thing that makes gated == carved hold.


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
def test_norm_that_divides_by_all_units_breaks_the_equivalence(soft, float64_norms, monkeypatch):
    variant = SOME_VARIANTS[0]
    values = gates_for(variant, (Axis.HIDDEN,), soft=soft)
    model, ids = toy_model(toy_config(variant)), toy_ids()
    one = torch.ones((), dtype=torch.float64)
    monkeypatch.setattr(vectors, "norm_gates", lambda gates, is_open: NormGates(gates, is_open, gates, one))
    assert difference(gated_logits(model, values, ids), carved_logits(model, values, ids)) > BROKEN


def test_norm_that_counts_the_sum_of_soft_gates_breaks_the_equivalence(float64_norms, monkeypatch):
    """It divides by the number of gates that are not 0, not by their sum."""
    variant = SOME_VARIANTS[0]
    values = gates_for(variant, (Axis.HIDDEN,))
    model, ids = toy_model(toy_config(variant)), toy_ids()

    def by_sum(gates: torch.Tensor, is_open: torch.Tensor) -> NormGates:
        return NormGates(gates, is_open, gates * gates.mean().sqrt(), gates.mean())

    monkeypatch.setattr(vectors, "norm_gates", by_sum)
    assert difference(gated_logits(model, values, ids), carved_logits(model, values, ids)) > BROKEN


def test_norm_that_keeps_its_constant_breaks_the_equivalence(float64_norms, monkeypatch):
    variant = SOME_VARIANTS[0]
    values = gates_for(variant, (Axis.HIDDEN,))
    model, ids = toy_model(toy_config(variant)), toy_ids()
    prepare, one = vectors.norm_gates, torch.ones((), dtype=torch.float64)
    monkeypatch.setattr(
        vectors, "norm_gates", lambda gates, is_open: prepare(gates, is_open)._replace(kept_fraction=one)
    )
    assert difference(gated_logits(model, values, ids), carved_logits(model, values, ids)) > BROKEN / 10


CARRIES = [
    pytest.param(variant, index, id=f"{variant}: {name}")
    for variant in SOME_VARIANTS
    for index, (name, _) in enumerate(tables_with_one_carry_less(family_of(toy_config(variant))))
]


@pytest.mark.parametrize(("variant", "index"), CARRIES)
def test_carving_without_any_one_carried_gate_breaks_the_equivalence(variant, index, float64_norms):
    model, ids = toy_model(toy_config(variant)), toy_ids()
    values = gates_for(variant, variant.axes)
    tables = tables_with_one_carry_less(family_of(model.config))
    _, broken = next(itertools.islice(tables, index, None))
    gated = gated_logits(model, values, ids)
    assert difference(gated, carved_logits(model, values, ids, family=broken)) > BROKEN


@pytest.mark.parametrize("source", [vectors.block_outputs, vectors.heads, vectors.intermediate])
def test_gates_put_in_the_wrong_block_break_the_equivalence(source, float64_norms, monkeypatch):
    variant = SOME_VARIANTS[0]
    model, ids = toy_model(toy_config(variant)), toy_ids()
    values = gates_for(variant, tuple(axis for axis in variant.axes if axis is not Axis.HIDDEN))
    put = AttachedGates.set

    def reversed_blocks(self, values):
        put(self, values)
        self._vectors[source].reverse()

    monkeypatch.setattr(AttachedGates, "set", reversed_blocks)
    assert difference(gated_logits(model, values, ids), carved_logits(model, values, ids)) > BROKEN
