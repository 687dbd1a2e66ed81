"""What the cut keeps, in what order, under what names, and what it refuses."""

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.theory.shape import Axis, ShapeError
from tests.toy_models import (
    SOME_VARIANTS,
    TARGET,
    VARIANTS,
    carved_model,
    gated_logits,
    random_gates,
    toy_config,
    toy_ids,
    toy_model,
)

GQA = SOME_VARIANTS[0]
FAMILY = family_of(toy_config(GQA))
SOURCE = FAMILY.shape


def hard_gates(axis: Axis, *rows: list[int]) -> dict[Axis, torch.Tensor]:
    """Gates of one axis that keep the listed units of each row; the last list serves the rows that remain."""
    values = torch.zeros(SOURCE.gate_shape(axis))
    flat = values.view(-1, SOURCE.units(axis))
    for row in range(len(flat)):
        flat[row, rows[min(row, len(rows) - 1)]] = 1
    return {axis: values}


def test_kept_units_are_in_the_order_of_the_source():
    kept = kept_units(hard_gates(Axis.HIDDEN, [40, 3, 17]), SOURCE)
    assert kept.hidden.tolist() == [3, 17, 40]
    assert kept.layers.tolist() == [0, 1, 2, 3]


def test_kept_units_of_absent_axes_are_all():
    kept = kept_units({}, SOURCE)
    assert kept.shape == SOURCE
    assert kept.query_heads.tolist() == [list(range(12))] * 4


def test_each_block_keeps_its_own_units():
    kept = kept_units(hard_gates(Axis.INTERMEDIATE, [0, 1], [7, 5], [39, 2]), SOURCE)
    assert kept.intermediate.tolist() == [[0, 1], [5, 7], [2, 39], [2, 39]]
    assert kept.along(Axis.INTERMEDIATE, 1).tolist() == [5, 7]


def test_query_heads_are_numbered_within_the_block_and_follow_their_group():
    """KV heads 1 and 3 stay; of their query heads 3 to 5 and 9 to 11, each group keeps two of its own."""
    values = hard_gates(Axis.KV_HEADS, [1, 3]) | hard_gates(Axis.QUERY_HEADS, [0, 1], [0, 2], [0, 1], [1, 2])
    kept = kept_units(values, SOURCE)
    assert kept.kv_heads[0].tolist() == [1, 3]
    assert kept.query_heads[0].tolist() == [3, 5, 10, 11]


def test_blocks_are_renumbered():
    model = toy_model(toy_config(GQA))
    carved = carve(dict(model.named_parameters()), FAMILY, hard_gates(Axis.LAYERS, [1, 3]))
    name = "model.layers.{}.mlp.gate_proj.weight"
    blocks = {key.split(".")[2] for key in carved if key.startswith("model.layers.")}
    assert blocks == {"0", "1"}
    assert torch.equal(carved[name.format(0)], model.get_parameter(name.format(1)))
    assert torch.equal(carved[name.format(1)], model.get_parameter(name.format(3)))


def test_renumbering_two_digit_blocks_keeps_their_names_apart():
    config = toy_config(GQA, num_hidden_layers=12)
    model, family = toy_model(config), family_of(config)
    gates = torch.zeros(12)
    gates[[1, 10, 11]] = 1
    carved = carve(dict(model.named_parameters()), family, {Axis.LAYERS: gates})
    for new, old in enumerate((1, 10, 11)):
        name = "model.layers.{}.input_layernorm.weight"
        assert torch.equal(carved[name.format(new)], model.get_parameter(name.format(old)).detach())


@pytest.mark.parametrize("axis", [Axis.KV_HEADS, Axis.QUERY_HEADS, Axis.INTERMEDIATE])
def test_rows_that_keep_different_numbers_are_refused(axis):
    values = hard_gates(axis, [0], [0, 1])
    with pytest.raises(ShapeError) as refusal:
        carve(dict(toy_model(toy_config(GQA)).named_parameters()), FAMILY, values)
    message = str(refusal.value)
    assert axis.value in message
    assert "between 1 and 2 units per row" in message
    assert "same number" in message
    assert "Evaluate the gates at a target shape" in message


@pytest.mark.parametrize("axis", list(Axis))
def test_rows_that_keep_nothing_are_refused(axis):
    with pytest.raises(ShapeError, match="at least 1"):
        kept_units({axis: torch.zeros(SOURCE.gate_shape(axis))}, SOURCE)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_carved_tensors_have_the_sizes_that_the_table_foretells(variant):
    model = toy_model(toy_config(variant))
    family, target = family_of(model.config), TARGET[variant.grouped]
    tensors = dict(model.named_parameters())
    carved = carve(tensors, family, random_gates(family.shape, target, variant.axes))
    foretold = family.carved_sizes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, target)
    assert {name: tuple(tensor.shape) for name, tensor in carved.items()} == foretold


def test_carving_leaves_the_source_alone_and_shares_no_memory_with_it():
    model = toy_model(toy_config(SOME_VARIANTS[1]))
    family = family_of(model.config)
    tensors = dict(model.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for values in ({}, random_gates(family.shape, TARGET[False], SOME_VARIANTS[1].axes)):
        carved = carve(tensors, family, values)
        assert all(torch.equal(tensors[name], before[name]) for name in before)
        own = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
        assert not own & {tensor.untyped_storage().data_ptr() for tensor in carved.values()}
        assert len({tensor.untyped_storage().data_ptr() for tensor in carved.values()}) == len(carved)
        assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in carved.values())


def test_carving_without_gates_is_a_copy():
    tensors = dict(toy_model(toy_config(GQA)).named_parameters())
    carved = carve(tensors, FAMILY, {})
    assert carved.keys() == tensors.keys()
    assert all(torch.equal(carved[name], tensors[name]) for name in tensors)


def test_carving_a_bfloat16_model_multiplies_soft_gates_in_float32():
    """Products are rounded once, by whoever saves them; tensors that carry nothing keep their dtype."""
    model = toy_model(toy_config(GQA), dtype=torch.bfloat16)
    values = random_gates(SOURCE, TARGET[True], GQA.axes, dtype=torch.float32)
    carved = carve(dict(model.named_parameters()), FAMILY, values)
    assert carved["model.layers.0.self_attn.o_proj.weight"].dtype == torch.float32
    assert carved["model.layers.0.self_attn.q_proj.weight"].dtype == torch.bfloat16
    wide = {name: tensor.float() for name, tensor in model.named_parameters()}
    exact = carve(wide, FAMILY, values)
    assert all(torch.equal(carved[name].float(), exact[name]) for name in exact)


def test_carving_takes_gates_that_require_gradients():
    values = random_gates(SOURCE, TARGET[True], GQA.axes)
    learned = {axis: gates.clone().requires_grad_() for axis, gates in values.items()}
    tensors = dict(toy_model(toy_config(GQA)).named_parameters())
    left, right = carve(tensors, FAMILY, values), carve(tensors, FAMILY, learned)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_generation_of_a_carved_model_is_the_same_with_and_without_its_cache(variant):
    model = toy_model(toy_config(variant))
    family = family_of(model.config)
    values = random_gates(family.shape, TARGET[variant.grouped], variant.axes)
    small, prompt = carved_model(model, values), toy_ids(sequences=1, length=5)
    cached, plain = (
        small.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for use_cache in (True, False)
    )
    assert cached.sequences.shape == (1, 17)
    assert torch.equal(cached.sequences, plain.sequences)
    # Rotary angles are computed in float32 at other positions' sizes, hence not bitwise.
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), rtol=0, atol=1e-6)


def test_gated_generation_gives_the_tokens_of_the_carved_model():
    model, prompt = toy_model(toy_config(GQA)), toy_ids(sequences=1, length=5)
    values = random_gates(SOURCE, TARGET[True], GQA.axes)
    sequence = prompt
    for _ in range(8):
        next_id = gated_logits(model, values, sequence)[:, -1].argmax(-1, keepdim=True)
        sequence = torch.cat([sequence, next_id], dim=1)
    generated = carved_model(model, values).generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False
    )
    assert torch.equal(generated, sequence)
