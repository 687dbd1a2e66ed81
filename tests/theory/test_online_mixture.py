"""Mixtures that follow training losses, against transcriptions of their sources in plain numbers."""

import math

import numpy as np
import pytest
import torch

from shear_lit.theory import online_mixture
from shear_lit.theory.online_mixture import (
    AdoState,
    OdmState,
    PowerLaw,
    Seen,
    ado_update,
    fitted_law,
    odm_update,
)

NAN = math.nan


def seen(losses, shares, step=1, sequences=8):
    tensors = (torch.tensor(part, dtype=torch.float64) for part in (losses, shares))
    return Seen(**dict(zip(("losses", "shares"), tensors, strict=True)), step=step, sequences=sequences)


def updates(count, domains, seed=0):
    """Losses that fall, and shares."""
    random = np.random.default_rng(seed)
    for step in range(1, count + 1):
        losses = 2 + random.uniform(0.5, 2, domains) * step**-0.3
        yield losses, random.dirichlet(np.full(domains, 20.0))


def test_bandit_is_its_algorithm():
    """Line by line (arXiv:2312.02406), with a domain that goes unseen now and then."""
    count = 4
    weights, state = torch.full((count,), 1 / count, dtype=torch.float64), OdmState(rewards=(0.0,) * count)
    probability, reward, epsilon = [1 / count] * count, [0.0] * count, 1 / count
    for t, (losses, shares) in enumerate(updates(40, count), 1):
        losses[t % 7 :][:1] = NAN
        weights, state = odm_update(weights, state, seen(losses, shares, step=t))
        for i, loss in enumerate(losses):
            if not math.isnan(loss):
                reward[i] = 0.9 * reward[i] + 0.1 * loss / probability[i]
        before, epsilon = epsilon, min(1 / count, math.sqrt(math.log(count) / (count * t)))
        total = sum(math.exp(before * each) for each in reward)
        probability = [(1 - count * epsilon) * math.exp(before * each) / total + epsilon for each in reward]
        np.testing.assert_allclose(weights.numpy(), probability, rtol=1e-12)
    assert len(set(probability)) == count and sum(probability) == pytest.approx(1)


def test_bandit_leaves_domains_without_weight_out():
    whole = odm_update(
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        OdmState(rewards=(0.0, 0.0)),
        seen([2.0, 3.0], [0.5, 0.5]),
    )
    part = odm_update(
        torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64),
        OdmState(rewards=(0.0, 0.0, 0.0)),
        seen([2.0, NAN, 3.0], [0.5, 0, 0.5]),
    )
    assert part[0].tolist() == [whole[0][0], 0.0, whole[0][1]]


LAWS = [PowerLaw(2.0, 3.0, 0.4), PowerLaw(1.5, 2.0, 0.02), PowerLaw(2.2, 40.0, 0.7)]


def release_mixtures(prior, steps, batch):
    """What the release of ADO draws with after each step, given the laws; one update a step."""
    history, average = np.array(prior), np.array(prior)
    for step, (_, shares) in enumerate(steps, 1):
        history = 0.9 * history + 0.1 * shares
        seen_so_far = np.float64(step * batch)
        exponent = np.maximum([law.exponent for law in LAWS], 0.05)
        loss = np.array([law.floor + law.scale / seen_so_far**law.exponent for law in LAWS])
        slope = exponent * (loss - np.array([law.floor for law in LAWS])) / seen_so_far
        asked = slope * np.array(prior) * (history * (1 - history)) ** 0.5
        asked = np.maximum(asked / asked.sum(), 1e-2)
        asked = asked / asked.sum()
        used = 0.9 * average + 0.1 * asked
        if step >= online_mixture.LEAST_POINTS:
            average = (1 - 1 / (step + 1)) * average + asked / (step + 1)
            yield step, used


def test_laws_are_followed_as_in_the_release(monkeypatch):
    laws = iter([])

    def law(points, losses):
        nonlocal laws
        found = next(laws, None)
        if found is None:
            laws = iter(LAWS)
            found = next(laws)
        return found

    monkeypatch.setattr(online_mixture, "fitted_law", law)
    prior, batch = (0.5, 0.3, 0.2), 8
    steps = list(updates(60, 3))
    expected = dict(release_mixtures(prior, steps, batch))
    weights, state = torch.tensor(prior, dtype=torch.float64), AdoState.started(prior)
    for step, (losses, shares) in enumerate(steps, 1):
        weights, state = ado_update(weights, state, seen(losses, shares, step=step, sequences=step * batch))
        np.testing.assert_allclose(weights.numpy(), expected.get(step, prior), rtol=1e-10)
    assert state.points == tuple(float(step * batch) for step in range(1, 61))


def test_updates_that_come_seldom_remember_as_many_steps(monkeypatch):
    """Five steps at once: what a domain had, and what the average of all mixtures weighs, as after single ones."""
    monkeypatch.setattr(online_mixture, "LEAST_POINTS", 1)
    monkeypatch.setattr(online_mixture, "HISTORY_KEPT", 1.0)  # so that each step asks for the same
    monkeypatch.setattr(online_mixture, "fitted_law", lambda points, losses: PowerLaw(2.0, 3.0, 0.4))
    prior = (0.5, 0.3, 0.2)
    start, told = torch.tensor(prior, dtype=torch.float64), ([2.5, 2.6, 2.7], [0.4, 0.4, 0.2])
    singly, state = start, AdoState.started(prior)
    for step in range(1, 11):
        singly, state = ado_update(singly, state, seen(*told, step=step, sequences=8 * step))
    together, other = start, AdoState.started(prior)
    for step in (5, 10):
        together, other = ado_update(together, other, seen(*told, step=step, sequences=8 * step))
    np.testing.assert_allclose(other.average, state.average, rtol=1e-12)
    assert other.points == (24.0, 64.0)
    monkeypatch.setattr(online_mixture, "HISTORY_KEPT", 0.9)
    one, five = AdoState.started(prior), AdoState.started(prior)
    for step in range(1, 6):
        _, one = ado_update(start, one, seen(*told, step=step, sequences=8 * step))
    _, five = ado_update(start, five, seen(*told, step=5, sequences=40))
    np.testing.assert_allclose(five.history, one.history, rtol=1e-12)


@pytest.mark.parametrize("law", [(2.0, 3.0, 0.3), (1.9, 5.0, 0.5), (2.5, 1.5, 0.15)])
def test_fit_finds_a_planted_law(law):
    floor, scale, exponent = law
    points = np.arange(25.0, 5000, 50)
    noise = np.random.default_rng(0).normal(0, 0.005, len(points))
    found = fitted_law(points, (floor + scale * points**-exponent) * np.exp(noise))
    assert found.slope(4975) == pytest.approx(PowerLaw(*law).slope(4975), rel=0.08)
    exact = fitted_law(points, floor + scale * points**-exponent)
    assert exact == pytest.approx(law, rel=0.02)
    again = fitted_law(points.copy(), floor + scale * points**-exponent)
    assert again == exact  # bit for bit: each rank fits for itself


def test_points_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(online_mixture, "POINTS_KEPT", 16)
    monkeypatch.setattr(online_mixture, "fitted_law", lambda points, losses: PowerLaw(2.0, 3.0, 0.4))
    weights, state = torch.tensor([0.5, 0.5], dtype=torch.float64), AdoState.started((0.5, 0.5))
    for step, (losses, shares) in enumerate(updates(100, 2), 1):
        weights, state = ado_update(weights, state, seen(losses, shares, step=step, sequences=8 * step))
        assert len(state.points) == len(state.losses) <= 16
    assert state.points[0] == 8.0 and state.points[-1] > 780
