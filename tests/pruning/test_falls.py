"""Switches of a fall: what is asked of sizes, how gates are drawn, and gradients of two objectives."""

from dataclasses import replace

import pytest
import torch

from shear_lit.models.huggingface import run_blocks_again
from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.constraints import Exact
from shear_lit.pruning.game import Game, Schedule
from shear_lit.pruning.gate_settings import Draws, ExactGates, Fall
from shear_lit.pruning.gates import Gates
from shear_lit.pruning.settings import Pruning, RepairSettings
from shear_lit.pruning.stages import stage_shapes
from shear_lit.pruning.starts import initial_log_alpha, ranked_gates
from shear_lit.theory.hard_concrete import highest, straight_through, threshold
from shear_lit.theory.losses import Weights
from shear_lit.theory.shape import Axis, ModelShape, ShapeError
from shear_lit.training.distillation import of_gates, sums_of_each
from tests.toy_models import SOME_VARIANTS, TARGET, VOCABULARY, toy_config, toy_model

FAMILY = family_of(toy_config())
SOFT = ExactGates(start_sharpness=2.0, final_sharpness=2.0, noise=1.0)
"""So soft that many gates are undecided."""
STEPS, FALLS = 40, 20
AXES = tuple(Axis)


def pruning_of(**given):
    usual = {"target": TARGET[True], "constraint": "exact", "sparsity_warmup_steps": FALLS}
    return Pruning(**{**usual, **given})


def schedule_of(**given):
    pruning = pruning_of(**given)
    return Schedule(pruning, FAMILY.shape, AXES, STEPS, stage_shapes(pruning, FAMILY, AXES))


def importance(seed=3):
    numbers = torch.Generator().manual_seed(seed)
    return {axis: torch.rand(FAMILY.shape.gate_shape(axis), generator=numbers) for axis in AXES}


def game_of(pruning, model=None):
    """Gates in the order of their importance on a model."""
    model = toy_model(toy_config()) if model is None else model
    gates = Gates(FAMILY.shape, AXES)
    gates.start_from(
        initial_log_alpha(
            importance(), pruning.shape, is_exact=pruning.constraint == "exact", gap=pruning.initial_gap
        )
    )
    return model, Game(gates, None, attach(model, FAMILY), 17)


def opened(values):
    return {axis: rows != 0 for axis, rows in values.items()}


def weighted(values):
    """An objective in which every unit counts otherwise."""
    return sum((rows.flatten() * torch.linspace(1, 2, rows.numel())).sum() for rows in values.values())


# Falls


@pytest.mark.parametrize("fall", [Fall(order="ranked"), Fall(stages=3), Fall(order="ranked", stages=3)])
def test_sizes_of_a_fall_by_whole_units_go_down_to_the_target_and_never_below_the_line(fall):
    schedule, line = schedule_of(fall=fall), schedule_of()
    before = {axis: float(FAMILY.shape.units(axis)) for axis in AXES}
    assert schedule.kept(0) == before
    for step in range(STEPS):
        kept = schedule.kept(step)
        for axis, units in kept.items():
            assert units == int(units) <= before[axis]
            if (
                axis is not Axis.HIDDEN or not fall.stages
            ):  # which goes to the nearest size that the config takes
                assert units >= line.kept(step)[axis] - 1e-6
            assert schedule.sparsity(step)[axis] == 1 - units / FAMILY.shape.units(axis)
        before = kept
    assert before == {axis: float(TARGET[True].units(axis)) for axis in AXES}


def test_default_sizes_are_the_line_to_the_last_bit():
    schedule = schedule_of()
    for step in range(STEPS):
        constraint = schedule.constraint(step)
        expected = {
            axis: (1 - lost) * FAMILY.shape.units(axis) for axis, lost in schedule.sparsity(step).items()
        }
        assert isinstance(constraint, Exact) and constraint.kept == expected
        assert (schedule.is_noisy(step), schedule.is_hard(step), schedule.gates_learn(step)) == (
            True,
            False,
            True,
        )


def test_stages_begin_one_after_another_and_the_last_one_when_the_line_arrives():
    schedule = schedule_of(fall=Fall(stages=3))
    begun = [schedule.stage(step) for step in range(STEPS)]
    assert [begun.index(stage) for stage in (1, 2, 3)] == [7, 14, FALLS]
    assert begun == sorted(begun)


def test_every_stage_is_a_shape_that_a_stock_model_can_have():
    shapes = stage_shapes(pruning_of(fall=Fall(stages=5)), FAMILY, AXES)
    for shape in shapes:
        FAMILY.check_shape(shape)
    assert shapes[-1] == TARGET[True]
    assert [shape.hidden for shape in shapes] == sorted((shape.hidden for shape in shapes), reverse=True)


def test_stage_without_a_shape_is_refused_with_its_number():
    """Hidden and heads that a config takes at the ends only: heads fall by one, and the hidden size cannot follow."""
    target = ModelShape(**{**FAMILY.shape.to_dict(), "layers": 2, "query_heads": 6, "kv_heads": 2})

    def only_the_ends(shape):
        if shape not in (FAMILY.shape, target):
            raise ShapeError("no such shape. Use another.", key="target.hidden")

    family = replace(FAMILY, check_shape=only_the_ends)
    pruning = pruning_of(target=target, fall=Fall(stages=2))
    with pytest.raises(ShapeError, match="1 of the stages has no shape") as refused:
        stage_shapes(pruning, family, (Axis.LAYERS, Axis.KV_HEADS))
    assert refused.value.key == "model.pruning.fall.stages"


def test_units_leave_in_the_order_of_the_ranking_however_fast_gates_learn():
    """Beside it, gates of a fall in the learned order have a gradient from the first step."""
    pruning = pruning_of(fall=Fall(order="ranked"), exact=SOFT)
    _, game = game_of(pruning)
    schedule = Schedule(pruning, FAMILY.shape, AXES, STEPS)
    optimizer = torch.optim.AdamW(game.gates.parameters(), lr=1.0, weight_decay=0.0)
    order = importance()
    for step in range(FALLS + 2):
        kept = {axis: int(units) for axis, units in schedule.kept(step).items()}
        standing = opened(game.gates(constraint=schedule.constraint(step)).values)
        for axis in AXES:
            counts = torch.full(order[axis].shape[:-1], kept[axis])
            ranked = highest(order[axis], counts)
            if step <= FALLS:
                assert torch.equal(standing[axis], ranked), (step, axis)
        state = game.draw(schedule, step, 0)
        weighted(state.values).backward()
        moved = any(bool(rows.grad.any()) for rows in game.gates.parameters())
        assert moved == (step >= FALLS)
        optimizer.step()
        optimizer.zero_grad()


# Draws


def test_noise_ends_after_its_share_of_the_run_for_both_constraints():
    for constraint in ("exact", "lagrangian"):
        given = {"exact": SOFT} if constraint == "exact" else {}
        draws = Draws(noise_until_fraction=0.8)
        pruning = pruning_of(constraint=constraint, initial_gap=3.0, draws=draws, **given)
        _, game = game_of(pruning)
        schedule = Schedule(pruning, FAMILY.shape, AXES, STEPS)
        for step, alike in ((31, False), (32, True), (39, True)):
            with torch.no_grad():
                first, second = (game.draw(schedule, step, micro).values for micro in (0, 1))
            assert all(torch.equal(first[axis], second[axis]) for axis in AXES) == alike, (constraint, step)
        log_alpha = schedule.constraint(39).placed(game.gates.log_alpha())
        assert all(torch.equal(first[axis] > 0, rows > threshold()) for axis, rows in log_alpha.items())


@pytest.mark.parametrize("constraint", ["exact", "lagrangian"])
def test_hard_forward_has_the_gates_of_the_cut_and_the_gradient_of_the_draw(constraint):
    given = {"exact": SOFT} if constraint == "exact" else {}
    soft = pruning_of(constraint=constraint, initial_gap=3.0, **given)
    hard = replace(soft, draws=Draws(hard_from_fraction=0.75))
    gradients = {}
    for name, pruning in (("soft", soft), ("hard", hard)):
        _, game = game_of(pruning)
        schedule = Schedule(pruning, FAMILY.shape, AXES, STEPS)
        state = game.draw(schedule, 30, 0)
        if name == "hard":
            with torch.no_grad():
                cut = schedule.constraint(30).standing(game.gates.log_alpha(), pruning.shape)
            for axis, values in state.values.items():
                torch.testing.assert_close(values.detach(), cut[axis], rtol=1e-6, atol=0)
                assert torch.equal(values != 0, cut[axis] != 0)
                assert ((values != 0).sum(-1) == pruning.shape.units(axis)).all()
            with torch.no_grad():
                early = game.draw(schedule, 29, 0).values
            assert any(not torch.equal(early[axis] != 0, cut[axis] != 0) for axis in AXES)
        weighted(state.values).backward()
        gradients[name] = [rows.grad.clone() for rows in game.gates.parameters()]
    assert any(bool(rows.any()) for rows in gradients["hard"])
    for one, other in zip(gradients["soft"], gradients["hard"], strict=True):
        assert torch.equal(one, other)


def test_straight_through_keeps_the_bits_of_one_and_the_gradient_of_the_other():
    forward = torch.tensor([0.0, 0.3, 1.0])
    backward = torch.tensor([0.7, 1e-9, 0.1], requires_grad=True)
    values = straight_through(forward, backward)
    assert torch.equal(values.detach(), forward)
    (values * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert backward.grad.tolist() == [1.0, 2.0, 3.0]


# Two objectives


class Beside:
    def __init__(self, model):
        self.model = model.requires_grad_(requires_grad=False)


BOTH = Weights(language=0.5, divergence=2.0)


@pytest.mark.parametrize("asked", ["language", "distillation"])
@pytest.mark.parametrize("again", [False, True], ids=["plain", "checkpointing"])
def test_weights_learn_from_one_objective_and_gates_from_the_other(asked, again):
    """Each gradient is that of a pass with its objective alone, beside a penalty that both leave as it is."""
    pruning = pruning_of(sparsity_warmup_steps=0, exact=SOFT)
    schedule = Schedule(pruning, FAMILY.shape, AXES, STEPS)
    tokens = torch.randint(2, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": tokens, "labels": tokens}
    teacher = Beside(toy_model(toy_config(SOME_VARIANTS[1]), seed=5))
    gates_learn = of_gates(asked, BOTH)

    def gradients(*objectives):
        model, game = game_of(pruning)
        model.train()
        if again:
            run_blocks_again(model)
        apart = len(objectives) > 1
        state = game.draw(schedule, 0, 0, apart=apart)
        sums, *own = sums_of_each(model, inputs, objectives, teacher)
        penalty = sum(rows.sum() for rows in state.sparsity.values())
        loss = sums.total + penalty
        for objective in own:
            stand_in = game.passed_on(objective.total)
            assert float(stand_in.detach()) == 0
            loss = loss + stand_in
        loss.backward()
        return [rows.grad for rows in model.parameters()], [rows.grad for rows in game.gates.parameters()]

    weights, gates = gradients(BOTH, gates_learn)
    wanted_weights, other_gates = gradients(BOTH)
    other_weights, wanted_gates = gradients(gates_learn)
    for found, wanted in ((weights, wanted_weights), (gates, wanted_gates)):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))
    assert not all(torch.allclose(*pair) for pair in zip(weights, other_weights, strict=True))
    assert not all(torch.allclose(*pair) for pair in zip(gates, other_gates, strict=True))


# What is refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(constraint="lagrangian", fall=Fall(stages=2)), ["model.pruning.fall has no effect"]),
        (dict(sparsity_warmup_steps=0, fall=Fall(order="ranked")), ["model.pruning.fall has no effect"]),
        (dict(fall=Fall(stages=21)), ["fall.stages=21", "sparsity_warmup_steps=20", "fewer stages"]),
        (dict(fall=Fall(order="ranked"), initial_gap=2.0), ["initial_gap=2.0", "Use initial_gap=0"]),
        (
            dict(keep_layer_period=True, draws=Draws(hard_from_fraction=0.9)),
            ["hard_from_fraction", "keep_layer_period=false"],
        ),
        (dict(repair=RepairSettings()), ["model.pruning.repair", "fall.stages=4"]),
        (dict(fall=Fall(order="ranked"), repair=RepairSettings()), ["model.pruning.repair", "no cut"]),
    ],
    ids=str,
)
def test_switch_without_effect_is_refused_with_key_rule_and_repair(given, words):
    with pytest.raises(ShapeError) as found:
        pruning_of(**given)
    for word in words:
        assert word in str(found.value), found.value
    assert pruning_of(fall=Fall(stages=20), repair=RepairSettings()).fall.by_whole_units


@pytest.mark.parametrize("name", ["noise_until_fraction", "hard_from_fraction"])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_share_of_a_run_that_is_none_is_refused(name, value):
    with pytest.raises(ShapeError, match=rf"draws\.{name}={value}.*Use for example 0\.8"):
        Draws(**{name: value})


def test_ranked_start_is_the_order_of_the_falls():
    """What the tests above take for granted: importance and gates have one order."""
    pruning = pruning_of()
    gates = initial_log_alpha(
        importance(), pruning.shape, is_exact=pruning.constraint == "exact", gap=pruning.initial_gap
    )
    values = ranked_gates(importance(), FAMILY.shape, pruning.shape)
    for axis, rows in gates.items():
        counts = torch.full(rows.shape[:-1], pruning.shape.units(axis))
        assert torch.equal(highest(rows, counts), values[axis] != 0)
