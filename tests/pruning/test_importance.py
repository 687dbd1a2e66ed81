"""Importance by the gates' own gradients, and the start of the gates that follows from it."""

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.gates import Gates
from shear_lit.pruning.importance import gate_gradients, ranked_log_alpha
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT, deterministic
from shear_lit.theory.shape import Axis, ModelShape
from tests.toy_models import VOCABULARY, toy_config, toy_model

AXES = tuple(Axis)


@pytest.fixture
def model():
    return toy_model(toy_config())


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCABULARY, (2, 9), generator=generator) for _ in range(3)]


def loss_of(model, tokens):
    """The stock loss is computed in float32, too coarse for differences."""
    logits = model(input_ids=tokens, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def importance_of(model, batches):
    family = family_of(model.config)
    return gate_gradients(
        attach(model, family),
        lambda tokens: loss_of(model, tokens),
        batches,
        source=family.shape,
        axes=AXES,
        device=torch.device("cpu"),
    )


def test_importance_is_the_mean_squared_gradient_of_each_gate(model, batches, float64_norms):
    """By finite differences of the loss in one gate of every axis, all others open."""
    sums, count = importance_of(model, batches)
    model.zero_grad()
    family = family_of(model.config)
    for module in model.modules():
        module.__dict__.pop("forward", None)
    attached = attach(model, family)
    assert count == len(batches)
    for axis in AXES:
        shape = family.shape.gate_shape(axis)
        index = tuple(size // 2 for size in shape)
        total = 0.0
        for tokens in batches:
            losses = []
            for value in (1 + 1e-3, 1 - 1e-3):
                gates = torch.ones(shape, dtype=torch.float64)
                gates[index] = value
                attached.set({axis: gates})
                with torch.no_grad():
                    losses.append(loss_of(model, tokens))
            total += ((losses[0] - losses[1]) / 2e-3).square().item()
        assert sums[axis].squared[index].item() == pytest.approx(total, rel=1e-3, abs=1e-12), axis


def test_importance_leaves_the_gates_open_and_counts_every_batch_the_same(model, batches):
    with torch.no_grad():
        before = model(input_ids=batches[0]).logits
    twice, _ = importance_of(model, [*batches, *batches])
    with torch.no_grad():
        assert torch.equal(model(input_ids=batches[0]).logits, before)
    for module in model.modules():
        module.__dict__.pop("forward", None)
    once, _ = importance_of(model, batches)
    for axis in AXES:
        torch.testing.assert_close(twice[axis].squared, 2 * once[axis].squared)


def test_start_keeps_the_most_important_at_the_top_and_orders_the_others():
    importance = {Axis.HIDDEN: torch.tensor([0.1, 5.0, 0.3, 4.0, 0.2])}
    target = ModelShape(layers=1, hidden=2, query_heads=1, kv_heads=1, intermediate=1)
    start = ranked_log_alpha(importance, target, gap=3.0)[Axis.HIDDEN]
    top = LOG_ALPHA_LIMIT
    assert start.tolist() == pytest.approx([top - 3, top, top - 2.8, top, top - 2.9])
    kept = deterministic(start, torch.tensor(2)) != 0
    assert kept.tolist() == [False, True, False, True, False]


def test_start_ranks_every_row_by_itself():
    importance = {Axis.KV_HEADS: torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])}
    target = ModelShape(layers=2, hidden=2, query_heads=2, kv_heads=2, intermediate=1)
    start = ranked_log_alpha(importance, target, gap=9.0)[Axis.KV_HEADS]
    assert (start < LOG_ALPHA_LIMIT).tolist() == [[False, False, True], [True, False, False]]
    assert start.min() >= -LOG_ALPHA_LIMIT


def test_gates_take_a_start_as_their_parameters():
    source = ModelShape(layers=3, hidden=4, query_heads=2, kv_heads=2, intermediate=5)
    gates = Gates(source, (Axis.LAYERS, Axis.INTERMEDIATE))
    start = {axis: torch.randn(source.gate_shape(axis)) for axis in gates.axes}
    gates.start_from(start)
    for axis, log_alpha in gates.log_alpha().items():
        assert torch.equal(log_alpha.detach(), start[axis]) and log_alpha.requires_grad


def test_importance_is_the_same_inside_autocast(batches):
    """Whoever orders gates, and wherever: the order is that of float32."""
    model = toy_model(toy_config()).float()
    expected, _ = importance_of(model, batches)
    for module in model.modules():
        module.__dict__.pop("forward", None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = importance_of(model, batches)
    for axis in AXES:
        assert torch.equal(found[axis].squared, expected[axis].squared)
