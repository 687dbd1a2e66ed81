"""Gates on a live model: what they leave alone, what they refuse, and how they behave while training."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError
from transformers import LlamaForCausalLM

from shear_lit.models.family import FamilyError, Norm
from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import AttachedGates, attach
from shear_lit.pruning.constraints import GateValues
from tests.toy_models import (
    SOME_VARIANTS,
    VARIANTS,
    Variant,
    gated_logits,
    random_gates,
    toy_config,
    toy_ids,
    toy_model,
)

GQA = SOME_VARIANTS[0]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def open_gates(variant: Variant, dtype: torch.dtype = torch.float32) -> GateValues:
    source = family_of(toy_config(variant)).shape
    return {axis: torch.ones(source.gate_shape(axis), dtype=dtype) for axis in variant.axes}


def soft_gates(variant: Variant, dtype: torch.dtype = torch.float32, seed: int = 1) -> GateValues:
    """Leaves that require gradients; some are exactly 0, and rows lose different numbers of units."""
    source = family_of(toy_config(variant)).shape
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for axis in variant.axes:
        gates = torch.rand(source.gate_shape(axis), generator=generator, dtype=torch.float64) * 1.2 - 0.2
        values[axis] = gates.clamp(min=0).to(dtype).requires_grad_()
    return values


def gradients(
    model: LlamaForCausalLM,
    values: GateValues,
    ids: Tensor,
    *,
    before_backward: Callable[[AttachedGates], None],
) -> dict[str, Tensor]:
    """The gradients of the language loss by name, of weights and of gates."""
    model.zero_grad()
    attached = attach(model, family_of(model.config))
    attached.set(values)
    loss = model(ids, labels=ids, use_cache=False).loss
    before_backward(attached)
    found = torch.autograd.grad(loss, [*model.parameters(), *values.values()])
    attached.detach()
    return dict(zip([*dict(model.named_parameters()), *values], found, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_attached_without_values_and_with_all_gates_open_is_the_plain_model_bitwise(variant, dtype):
    model, ids = toy_model(toy_config(variant), dtype=dtype), toy_ids()
    with torch.no_grad():
        plain = model(ids).logits
        attached = attach(model, family_of(model.config))
        assert torch.equal(model(ids).logits, plain)
        wide = torch.promote_types(dtype, torch.float32)
        attached.set(open_gates(variant, wide))
        assert torch.equal(model(ids).logits, plain)


def test_one_gate_that_is_not_open_changes_the_logits():
    """The twin: the gates of every axis are in force."""
    model, ids = toy_model(toy_config(GQA)), toy_ids()
    with torch.no_grad():
        plain = model(ids).logits
    for axis in GQA.axes:
        values = open_gates(GQA, torch.float64)
        values[axis].flatten()[0] = 0.5
        assert not torch.allclose(gated_logits(model, values, ids), plain, rtol=0, atol=1e-6), axis


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_detaching_leaves_the_model_as_it_was_bit_for_bit(variant):
    model, ids = toy_model(toy_config(variant)), toy_ids()
    with torch.no_grad():
        plain = model(ids).logits
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {name: dict(module.__dict__) for name, module in model.named_modules()}
    gated_logits(
        model, random_gates(family_of(model.config).shape, family_of(model.config).shape, variant.axes), ids
    )
    assert {name: dict(module.__dict__) for name, module in model.named_modules()} == attributes
    after = model.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], after[name]) for name in state)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain)


def test_attaching_adds_nothing_to_the_state_dict():
    model = toy_model(toy_config(GQA))
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    attach(model, family_of(model.config)).set(open_gates(GQA, torch.float64))
    assert list(model.state_dict()) == names
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


def test_new_values_replace_the_old_ones():
    model, ids = toy_model(toy_config(GQA)), toy_ids()
    first, second = soft_gates(GQA, torch.float64, seed=1), soft_gates(GQA, torch.float64, seed=2)
    expected = gated_logits(model, second, ids)
    attached = attach(model, family_of(model.config))
    attached.set(first)
    attached.set(second)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)
        attached.set({})
        ungated = model(ids).logits
        attached.detach()
        assert torch.equal(model(ids).logits, ungated)


def test_attaching_twice_is_refused_and_changes_nothing():
    model, ids = toy_model(toy_config(GQA)), toy_ids()
    attached = attach(model, family_of(model.config))
    with pytest.raises(FamilyError, match="attach once"):
        attach(model, family_of(model.config))
    attached.detach()
    assert all("forward" not in module.__dict__ for module in model.modules())
    attach(model, family_of(model.config)).detach()
    model(ids)


def test_a_table_that_names_a_missing_module_is_refused():
    """Its gates would silently do nothing."""
    model = toy_model(toy_config(GQA))
    family = family_of(model.config)
    lost = Norm(module="model.layers.*.lost_norm", epsilon="variance_epsilon")
    with pytest.raises(FamilyError, match=r"model\.layers\.\*\.lost_norm"):
        attach(model, replace(family, norms=(*family.norms, lost)))
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_a_model_inside_another_is_refused():
    """The names of its modules are not those of the table."""
    model = toy_model(toy_config(GQA))
    with pytest.raises(FamilyError, match="Pass the model itself"):
        attach(nn.ModuleDict({"wrapped": model}), family_of(model.config))


def test_a_carrier_that_is_no_linear_layer_is_refused():
    model = toy_model(toy_config(GQA))
    model.model.layers[1].mlp.down_proj = nn.Bilinear(3, 3, 3)
    with pytest.raises(FamilyError, match="down_proj is a Bilinear"):
        attach(model, family_of(model.config))


@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=str)
def test_activation_checkpointing_gives_equal_gradients(variant):
    model, ids = toy_model(toy_config(variant)).train(), toy_ids()
    values = soft_gates(variant, torch.float64)
    stored = gradients(model, values, ids, before_backward=lambda attached: None)
    model.activation_checkpointing_enable({"use_reentrant": False})
    recomputed = gradients(model, values, ids, before_backward=lambda attached: None)
    for name in stored:  # autograd adds up a shared gate's parts in another order
        torch.testing.assert_close(stored[name], recomputed[name], rtol=1e-12, atol=1e-14)
    assert all(recomputed[axis].any() for axis in variant.axes)


def test_gates_taken_away_before_a_checkpointed_backward_do_not_pass_unseen():
    """The twin: the blocks are run again with other gates."""
    model, ids = toy_model(toy_config(GQA)).train(), toy_ids()
    model.activation_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(CheckpointError):
        gradients(
            model, soft_gates(GQA, torch.float64), ids, before_backward=lambda attached: attached.set({})
        )


def test_bfloat16_model_gives_its_float32_gates_float32_gradients():
    values = soft_gates(GQA)
    rounded = toy_model(toy_config(GQA), dtype=torch.bfloat16)
    low = gradients(rounded, values, toy_ids(), before_backward=lambda attached: None)
    assert all(low[name].dtype == torch.bfloat16 for name, _ in rounded.named_parameters())
    exact = soft_gates(GQA, torch.float64)
    high = gradients(toy_model(toy_config(GQA)), exact, toy_ids(), before_backward=lambda attached: None)
    for axis in GQA.axes:
        assert low[axis].dtype == torch.float32
        cosine = nn.functional.cosine_similarity(low[axis].double().flatten(), high[axis].flatten(), dim=0)
        assert cosine > 0.98, axis


@pytest.mark.parametrize("backward_inside", [True, False], ids=["backward_inside", "backward_outside"])
def test_autocast_runs_and_gives_the_gates_the_same_gradients_wherever_backward_is_called(backward_inside):
    model, ids = toy_model(toy_config(GQA), dtype=torch.float32).train(), toy_ids()
    values = soft_gates(GQA)
    attached = attach(model, family_of(model.config))
    attached.set(values)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
        attached.set({})  # of no consequence: nothing is run again
        with nullcontext() if backward_inside else torch.autocast("cpu", enabled=False):
            found = torch.autograd.grad(loss, list(values.values()))
    exact = gradients(model_without(attached, model), values, ids, before_backward=lambda attached: None)
    for axis, gradient in zip(values, found, strict=True):
        assert gradient.dtype == torch.float32
        cosine = nn.functional.cosine_similarity(gradient.flatten(), exact[axis].flatten(), dim=0)
        assert cosine > 0.98, axis


def model_without(attached: AttachedGates, model: LlamaForCausalLM) -> LlamaForCausalLM:
    attached.detach()
    return model


def stored_bytes(model: LlamaForCausalLM, values: GateValues, ids: Tensor) -> int:
    """What one forward pass stores for backward, each memory once, parameters and gates not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *values.values())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive: no two have one address
        return tensor

    attached = attach(model, family_of(model.config))
    attached.set(values)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(ids, labels=ids, use_cache=False)
    attached.detach()
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=str)
def test_no_activation_and_no_weight_is_stored_a_second_time(variant, dtype):
    """All gates together store less than one activation of the residual stream, and than one weight matrix."""
    model = toy_model(toy_config(variant), dtype=dtype).train()
    ids = toy_ids(sequences=8, length=60)
    plain, gated = (stored_bytes(model, values, ids) for values in ({}, soft_gates(variant)))
    one_activation = ids.numel() * model.config.hidden_size * dtype.itemsize
    smallest_matrix = model.config.hidden_size * 36 * dtype.itemsize
    assert 0 <= gated - plain < min(one_activation, smallest_matrix)


def test_a_plain_product_with_the_weights_would_store_them_a_second_time(monkeypatch):
    """The twin of the measure."""
    from shear_lit.pruning import attach as attach_module

    def plain(x, weight, bias, rows, columns):
        for gates in (None if rows is None else rows[:, None], columns):
            weight = weight if gates is None else weight * gates
        return nn.functional.linear(x, weight, bias)

    model, ids = toy_model(toy_config(GQA), dtype=torch.float32).train(), toy_ids(sequences=8, length=60)
    lean = stored_bytes(model, soft_gates(GQA), ids)
    monkeypatch.setattr(attach_module, "gated_linear", plain)
    assert stored_bytes(model, soft_gates(GQA), ids) - lean > 4 * model.config.hidden_size * 36 * 4
