"""DESIGN's equations of one training step, transcribed to numpy float64 and held against the code to 1e-6.

One function per quantity; random inputs on both sides of every clamp. What is transcribed of the release's gradients:
clamps pass the gradient of log alpha on (see ``hard_concrete.clamped``), the clamp of a gate at 0 and 1 does not.
"""

import math

import numpy as np
import pytest
import torch

from shear_lit.pruning.gates import Gates, Multipliers
from shear_lit.theory import constraint, hard_concrete
from shear_lit.theory.mixture import MixtureRule, update_weights
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis, ModelShape

GAMMA, ZETA, BETA, LIMIT = -0.1, 1.1, 2 / 3, math.log(100)
SHIFT = BETA * math.log(-GAMMA / ZETA)
SOURCE = ModelShape(layers=4, hidden=24, query_heads=12, kv_heads=4, intermediate=20)
TARGET = ModelShape(layers=2, hidden=16, query_heads=4, kv_heads=2, intermediate=9)
AXES = tuple(Axis)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_probability(log_alpha):
    return np.clip(1 - sigmoid(SHIFT - np.clip(log_alpha, -LIMIT, LIMIT)), 1e-6, 1 - 1e-6)


def np_gate(log_alpha, uniform):
    noise = np.log(uniform) - np.log(1 - uniform)
    return np.clip(sigmoid((noise + np.clip(log_alpha, -LIMIT, LIMIT)) / BETA) * (ZETA - GAMMA) + GAMMA, 0, 1)


def np_evaluated(log_alpha, target=None):
    """Rows one by one: sort by log alpha, ties by index, zero all beyond the number that is kept."""
    inside = np.clip(log_alpha, -LIMIT, LIMIT)
    gates = sigmoid(0.8 * inside / BETA)
    for index in np.ndindex(*log_alpha.shape[:-1]):
        kept = target or max(1, round(np_probability(log_alpha[index]).sum()))
        order = sorted(range(log_alpha.shape[-1]), key=lambda unit, row=inside[index]: (-row[unit], unit))
        gates[index][order[kept:]] = 0
    return gates


def np_penalty(log_alpha, asked, first, second):
    total = 0.0
    for number, axis in enumerate(AXES):
        sparsity = 1 - np_probability(log_alpha[axis]).mean(-1)
        excess = sparsity - asked[axis]
        total += np.mean(first[number] * excess + second[number] * excess**2)
    return total


def np_penalty_gradient(log_alpha, asked, first, second, axis):
    """By the chain rule: dP = P (1 - P) at the clamped log alpha, whose clamp passes it on."""
    number = AXES.index(axis)
    probability = np_probability(log_alpha[axis])
    excess = 1 - probability.mean(-1) - asked[axis]
    per_row = (first[number] + 2 * second[number] * excess) / max(1, excess.size)
    return -np.expand_dims(per_row, -1) * probability * (1 - probability) / probability.shape[-1]


@pytest.fixture(params=range(3))
def gates(request):
    """Gates on both sides of their limits, and at them."""
    generator = torch.Generator().manual_seed(request.param)
    made = Gates(SOURCE, AXES)
    start = {}
    for axis in AXES:
        values = torch.randn(SOURCE.gate_shape(axis), generator=generator, dtype=torch.float64) * 4
        values.view(-1)[:2] = torch.tensor([LIMIT, -LIMIT])
        start[axis] = values.float()
    made.start_from(start)
    return made


def arrays(gates):
    return {axis: rows.detach().double().numpy() for axis, rows in gates.log_alpha().items()}


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().double().numpy(), expected, rtol=0, atol=1e-6)


def check_gates(gates):
    noise, log_alpha = keyed_uniform(SOURCE, AXES, key=(1, 2, 3)), arrays(gates)
    drawn, now, at_target = gates(noise), gates(), gates(target=TARGET)
    for axis in AXES:
        close(drawn.values[axis], np_gate(log_alpha[axis], noise[axis].double().numpy()))
        close(drawn.sparsity[axis], 1 - np_probability(log_alpha[axis]).mean(-1))
        close(now.values[axis], np_evaluated(log_alpha[axis]))
        close(at_target.values[axis], np_evaluated(log_alpha[axis], TARGET.units(axis)))


def check_penalty(gates):
    multipliers = Multipliers(AXES)
    generator = torch.Generator().manual_seed(9)
    for parameter in multipliers.parameters():
        parameter.data = torch.randn(len(AXES), generator=generator)
    asked = {
        axis: constraint.scheduled_sparsity(
            3, start=0.05, target=1 - TARGET.units(axis) / SOURCE.units(axis), warmup_steps=5
        )
        for axis in AXES
    }
    state = gates()
    penalty = multipliers(state.sparsity, asked).total
    penalty.backward()
    log_alpha = arrays(gates)
    first, second = (p.detach().double().numpy() for p in (multipliers.first, multipliers.second))
    close(penalty, np_penalty(log_alpha, asked, first, second))
    for number, axis in enumerate(AXES):
        close(gates.log_alpha()[axis].grad, np_penalty_gradient(log_alpha, asked, first, second, axis))
        excess = 1 - np_probability(log_alpha[axis]).mean(-1) - asked[axis]
        close(multipliers.first.grad[number], excess.mean())
        close(multipliers.second.grad[number], (excess**2).mean())


@pytest.mark.parametrize("check", [check_gates, check_penalty])
def test_step_equals_its_transcription(gates, check):
    check(gates)


@pytest.mark.parametrize(
    ("room", "name", "value", "check"),
    [
        (hard_concrete, "_DETERMINISTIC_SCALE", 0.8001, check_gates),
        (hard_concrete, "LOG_ALPHA_LIMIT", 4.604, check_gates),
        (hard_concrete, "BETA", 0.6667, check_penalty),
    ],
)
def test_step_with_another_constant_differs_from_its_transcription(
    monkeypatch, gates, room, name, value, check
):
    monkeypatch.setattr(room, name, value)
    with pytest.raises(AssertionError):
        check(gates)


def np_mixture(weights, loss, reference, rule, floor):
    lag = loss - reference
    if rule == "paper":
        lag = np.maximum(lag, 0)
    if rule == "static":
        return weights
    updated = weights * np.exp(lag)
    updated = updated / updated.sum()
    drawn = weights > 0
    return (1 - floor) * updated + floor * drawn / drawn.sum()


@pytest.mark.parametrize("rule", ["paper", "release", "static"])
@pytest.mark.parametrize("seed", range(3))
def test_mixture_equals_its_transcription(rule, seed):
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(7))
    loss, reference = random.uniform(0.5, 4, 7), random.uniform(0.5, 4, 7)
    floor = {"paper": 0.0, "release": 1e-4, "static": 0.0}[rule]
    found = update_weights(*map(torch.from_numpy, (weights, loss, reference)), rule=MixtureRule(rule))
    np.testing.assert_allclose(
        found.numpy(), np_mixture(weights, loss, reference, rule, floor), rtol=0, atol=1e-6
    )
