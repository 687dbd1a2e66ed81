"""Importance by the gates' own gradients, and the start of the gates that follows from it."""

from types import SimpleNamespace

import pytest
import torch

from shear_lit.models.huggingface import run_blocks_again
from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.gates import Gates
from shear_lit.pruning.starts import ranked_log_alpha
from shear_lit.ranking.gradients import by_mean_gradients, by_squared_gradients, gate_gradients
from shear_lit.ranking.measuring import measure
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT, deterministic
from shear_lit.theory.shape import Axis, ModelShape
from tests.ranking.passages import device, passages, whole
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


def sums_of(model, batches, attached=None):
    family = family_of(model.config)
    gates = attached or attach(model, family)
    try:
        return whole(
            gate_gradients(
                lambda input_ids, labels, use_cache: SimpleNamespace(loss=loss_of(model, input_ids)),
                gates.set,
                passages(batches),
                source=family.shape,
                axes=AXES,
                device=device(),
            )
        )
    finally:
        gates.detach()
        model.zero_grad()


def test_importance_is_the_mean_squared_gradient_of_each_gate(model, batches, float64_norms):
    """By finite differences of the loss of each sequence in one gate of every axis, all others open."""
    sums = sums_of(model, batches)
    family, rows = family_of(model.config), [row[None] for tokens in batches for row in tokens]
    attached = attach(model, family)
    assert sums["count"] == len(rows)
    for axis in AXES:
        shape = family.shape.gate_shape(axis)
        index = tuple(size // 2 for size in shape)
        slopes = []
        for tokens in rows:
            losses = []
            for value in (1 + 1e-3, 1 - 1e-3):
                gates = torch.ones(shape, dtype=torch.float64)
                gates[index] = value
                attached.set({axis: gates})
                with torch.no_grad():
                    losses.append(loss_of(model, tokens))
            slopes.append((losses[0] - losses[1]).item() / 2e-3)
        slopes = torch.tensor(slopes)
        squared, mean = (by(sums)[axis][index].item() for by in (by_squared_gradients, by_mean_gradients))
        assert squared == pytest.approx(slopes.square().mean().item(), rel=1e-3, abs=1e-12), axis
        assert mean == pytest.approx(abs(slopes.mean().item()), rel=1e-3, abs=1e-7), axis


def test_importance_leaves_the_gates_open_and_counts_every_sequence_the_same(model, batches):
    with torch.no_grad():
        before = model(input_ids=batches[0]).logits
    once, twice = sums_of(model, batches), sums_of(model, [*batches, *batches])
    with torch.no_grad():
        assert torch.equal(model(input_ids=batches[0]).logits, before)
    for axis in AXES:
        torch.testing.assert_close(by_squared_gradients(twice)[axis], by_squared_gradients(once)[axis])


def test_passages_that_only_fill_up_do_not_count(model, batches):
    """As where processes that wait for one another have too few: they pass, and leave nothing behind."""
    family, own = family_of(model.config), passages(batches)
    more = [*own, own[0]._replace(counts=False, number=len(own))]
    criteria = {Axis.HIDDEN: "fisher", Axis.LAYERS: "block_influence", Axis.INTERMEDIATE: "activation"}
    gates = attach(model, family)
    found = [
        measure(model, family, text, criteria, set_gates=gates.set, device=device()) for text in (own, more)
    ]
    for axis, values in found[0].importance.items():
        assert torch.equal(found[1].importance[axis], values), axis


def test_running_blocks_again_in_backward_changes_no_score(model, batches):
    family, plain = family_of(model.config), sums_of(model, batches)
    run_blocks_again(model)
    model.train()
    again = sums_of(model, batches)
    for axis in AXES:
        assert torch.equal(by_squared_gradients(again)[axis], by_squared_gradients(plain)[axis])
    assert family.shape.layers == len(model.model.layers)


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
    expected = sums_of(model, batches)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sums_of(model, batches)
    for axis in AXES:
        assert torch.equal(by_squared_gradients(found)[axis], by_squared_gradients(expected)[axis])
