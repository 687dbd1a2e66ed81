"""Dynamic batch loading against a transcription in numpy, and what its users may rely on."""

import math

import numpy as np
import pytest
import torch

from shear_lit.theory import mixture
from shear_lit.theory.mixture import MixtureRule, bounded_weights, update_weights

PAPER, RELEASE, STATIC = MixtureRule.PAPER, MixtureRule.RELEASE, MixtureRule.STATIC


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def np_update(weights, loss, reference, rule, floor):
    """One domain after the other, by the formula as it is printed."""
    unnormalised = []
    for w, found, aim in zip(weights, loss, reference, strict=True):
        lag = found - aim
        if rule == "paper":
            lag = max(0.0, lag)
        unnormalised.append(w * math.exp(lag) if w > 0 else 0.0)
    total, drawn = sum(unnormalised), sum(w > 0 for w in weights)
    return [(1 - floor) * w / total + floor / drawn if w > 0 else 0.0 for w in unnormalised]


def random_case(domains, seed):
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(domains))
    return weights, generator.uniform(0.5, 3, domains), generator.uniform(0.5, 3, domains)


def check_transcription():
    for seed in range(20):
        weights, loss, reference = random_case(1 + seed % 8, seed)
        for rule, floor, effective in [
            (PAPER, None, 0.0),
            (RELEASE, None, 1e-4),
            (PAPER, 0.03, 0.03),
            (RELEASE, 0.0, 0.0),
        ]:
            actual = update_weights(*map(torch.tensor, (weights, loss, reference)), rule=rule, floor=floor)
            expected = np_update(weights, loss, reference, rule.value, effective)
            np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-12)


def test_update_equals_its_transcription():
    check_transcription()


def test_update_with_another_default_floor_differs_from_its_transcription(monkeypatch):
    monkeypatch.setattr(MixtureRule, "default_floor", property(lambda rule: 1e-3))
    with pytest.raises(AssertionError):
        check_transcription()


def test_update_of_a_known_case_gives_its_known_weights():
    """A lag of log 2 doubles a weight; a domain that is ahead by log 2 is halved by the release alone."""
    weights, reference = tensor(0.5, 0.5), tensor(2.0, 2.0)
    behind, ahead = tensor(2 + math.log(2), 2), tensor(2 - math.log(2), 2)
    close = torch.testing.assert_close
    close(update_weights(weights, behind, reference), tensor(2 / 3, 1 / 3))
    close(update_weights(weights, ahead, reference), tensor(0.5, 0.5))
    close(update_weights(weights, behind, reference, rule=RELEASE, floor=0.0), tensor(2 / 3, 1 / 3))
    close(update_weights(weights, ahead, reference, rule=RELEASE, floor=0.0), tensor(1 / 3, 2 / 3))
    close(
        update_weights(weights, ahead, reference, rule=RELEASE, floor=0.3),
        tensor(0.7 / 3 + 0.15, 1.4 / 3 + 0.15),
    )


def test_static_rule_returns_the_weights_in_a_tensor_of_their_own():
    weights = tensor(0.7, 0.3)
    same = update_weights(weights, tensor(math.nan, 9.0), tensor(1.0, 1.0), rule=STATIC)
    assert torch.equal(same, weights) and same.data_ptr() != weights.data_ptr()


@pytest.mark.parametrize("rule", MixtureRule)
def test_update_leaves_its_arguments_alone_and_sums_to_one(rule):
    weights, loss, reference = map(torch.tensor, random_case(7, 0))
    copies = [value.clone() for value in (weights, loss, reference)]
    updated = update_weights(weights, loss, reference, rule=rule)
    assert all(map(torch.equal, copies, (weights, loss, reference)))
    assert updated.sum().item() == pytest.approx(1, abs=1e-12)
    assert (updated > 0).all()


@pytest.mark.parametrize("rule", MixtureRule)
@pytest.mark.parametrize("loss_of_absent", [0.0, 9.0, math.nan, math.inf])
def test_domain_of_weight_zero_stays_at_zero_whatever_its_loss(rule, loss_of_absent):
    weights = tensor(0.6, 0.0, 0.4)
    reference = tensor(1.0, 1.0, 1.0)
    updated = update_weights(weights, tensor(1.5, loss_of_absent, 1.2), reference, rule=rule)
    alone = update_weights(weights[[0, 2]], tensor(1.5, 1.2), reference[[0, 2]], rule=rule)
    torch.testing.assert_close(updated, tensor(alone[0].item(), 0.0, alone[1].item()), rtol=0, atol=1e-15)


@pytest.mark.parametrize("rule", [PAPER, RELEASE])
def test_floor_holds_for_every_domain_that_is_drawn(rule):
    """(1 - c) w + c / k >= c / k."""
    updated = update_weights(
        tensor(1e-12, 1 - 1e-12, 0.0), tensor(1.0, 9.0, 9.0), tensor(1.0, 1.0, 1.0), rule=rule, floor=0.1
    )
    assert (updated[:2] >= 0.05).all() and updated[2] == 0


@pytest.mark.parametrize("rule", MixtureRule)
def test_only_domain_keeps_all_the_weight(rule):
    assert update_weights(tensor(1.0), tensor(7.0), tensor(1.0), rule=rule).item() == pytest.approx(1)


@pytest.mark.parametrize("rule", [PAPER, RELEASE])
def test_domain_that_lags_more_grows_more(rule):
    """The ratio of new to old weight is a non-decreasing function of the lag (without a floor)."""
    for seed in range(20):
        weights, loss, reference = map(torch.tensor, random_case(6, seed))
        growth = update_weights(weights, loss, reference, rule=rule, floor=0.0) / weights
        assert (growth[(loss - reference).argsort()].diff() >= -1e-12).all()


@pytest.mark.parametrize("rule", [PAPER, RELEASE])
def test_equal_lags_preserve_the_order_of_the_weights(rule):
    weights, *_ = random_case(9, 1)
    weights = torch.tensor(np.sort(weights))
    updated = update_weights(weights, weights * 0 + 2.5, weights * 0 + 2.0, rule=rule)
    assert (updated.diff() > 0).all()
    torch.testing.assert_close(updated, weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", MixtureRule)
def test_order_of_the_domains_does_not_matter(rule):
    case = [torch.tensor(value) for value in random_case(6, 2)]
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = update_weights(*(value[order] for value in case), rule=rule)
    torch.testing.assert_close(shuffled, update_weights(*case, rule=rule)[order], rtol=0, atol=1e-15)


def test_paper_rule_keeps_the_mixture_once_every_domain_is_ahead():
    weights, loss, _ = map(torch.tensor, random_case(5, 3))
    torch.testing.assert_close(update_weights(weights, loss, loss + 0.1), weights, rtol=0, atol=1e-15)


@pytest.mark.parametrize("rule", [PAPER, RELEASE])
def test_enormous_lag_does_not_overflow(rule):
    updated = update_weights(tensor(0.5, 0.5), tensor(2000.0, 1.0), tensor(1.0, 1.0), rule=rule)
    assert torch.isfinite(updated).all() and updated[0] > 0.999


@pytest.mark.parametrize("rule", [PAPER, RELEASE])
def test_undefined_loss_of_a_drawn_domain_reaches_the_mixture(rule):
    """It must not be swallowed: the caller stops a run whose losses are not finite."""
    updated = update_weights(tensor(0.5, 0.5), tensor(math.nan, 1.0), tensor(1.0, 1.0), rule=rule)
    assert updated.isnan().any()


@pytest.mark.parametrize(
    "published",
    [(0.67, 0.045, 0.045, 0.02, 0.045, 0.025, 0.15), (0.2192, 0.0002, 0.0791, 0.0064, 0.0096, 0.001, 0.6845)],
    ids=["start", "end of pruning"],
)
def test_published_mixture_sums_to_one(published):
    assert sum(published) == pytest.approx(1, abs=1e-12)


def test_rule_is_found_by_its_name_in_a_configuration():
    assert [mixture.MixtureRule(name) for name in ("paper", "release", "static", "odm", "ado")] == list(
        MixtureRule
    )


def random_bounds(weights, generator):
    """Bounds that the weights meet, some of them at the weights themselves."""
    low = weights * generator.choice([0, 0.3, 0.9, 1], len(weights))
    high = np.minimum(1, weights * generator.choice([1, 1.1, 2, 50], len(weights)))
    return torch.tensor(low), torch.tensor(high)


def relative_entropy(of, to):
    return float((of * (of / to).log()).sum())


def check_bounds(bounded):
    """What the docstring proves: one mixture, within the bounds and the change, in proportion where nothing holds."""
    for seed in range(200):
        generator = np.random.default_rng(seed)
        weights, updated = (generator.dirichlet(np.full(1 + seed % 9, 0.5)) + 1e-6 for _ in range(2))
        weights, updated = torch.tensor(weights / weights.sum()), torch.tensor(updated / updated.sum())
        low, high = random_bounds(weights.numpy(), generator)
        change = generator.choice([1e-3, 0.05, 1.0])
        found = bounded(updated, weights, minimum=low, maximum=high, largest_change=change)
        assert found.sum().item() == pytest.approx(1, abs=1e-12)
        assert (found >= low).all() and (found <= high).all()
        assert ((found - weights).abs() <= change + 1e-15).all()
        lower, upper = torch.maximum(low, weights - change), torch.minimum(high, weights + change)
        free = (found > lower + 1e-12) & (found < upper - 1e-12)
        if free.any():
            scale = (found / updated)[free]
            torch.testing.assert_close(scale, scale[0].expand_as(scale), rtol=1e-9, atol=0)
            # At this scale, what the lower end holds would lie below it, and what the upper end holds above.
            room = lower < upper - 1e-12
            below, above = room & (found <= lower), room & (found >= upper)
            assert (updated[below] * scale[0] <= lower[below] + 1e-9).all()
            assert (updated[above] * scale[0] >= upper[above] - 1e-9).all()


def test_bounded_weights_are_one_mixture_within_bounds_and_change():
    check_bounds(bounded_weights)


def test_weights_clamped_and_normalised_again_would_leave_the_bounds():
    """The broken twin."""

    def clamped(updated, weights, *, minimum, maximum, largest_change):
        inside = updated.clamp(minimum, maximum)
        inside = inside.clamp(weights - largest_change, weights + largest_change)
        return inside / inside.sum()

    with pytest.raises(AssertionError):
        check_bounds(clamped)


def test_bounded_weights_are_the_nearest_in_relative_entropy():
    """Against many other mixtures within the same bounds."""
    generator = np.random.default_rng(1)
    weights, updated = (torch.tensor(generator.dirichlet(np.ones(4))) for _ in range(2))
    low, high = weights * 0.7, weights * 1.2
    found = bounded_weights(updated, weights, minimum=low, maximum=high)
    others = weights + torch.tensor(generator.uniform(-0.2, 0.2, (20_000, 4))) * weights
    others = others / others.sum(1, keepdim=True)
    inside = others[((others >= low) & (others <= high)).all(1)]
    assert len(inside) > 1000
    assert all(
        relative_entropy(found, updated) <= relative_entropy(other, updated) for other in inside[:1000]
    )


def test_without_bounds_an_update_stays_what_it_was():
    weights, updated = (torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(6))) for seed in (0, 1))
    nothing, all_of_it = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    found = bounded_weights(updated, weights, minimum=nothing, maximum=all_of_it)
    torch.testing.assert_close(found, updated, rtol=1e-14, atol=0)


def test_domain_of_weight_zero_stays_at_zero_within_bounds():
    found = bounded_weights(
        tensor(0.9, 0.0, 0.1),
        tensor(0.5, 0.0, 0.5),
        minimum=tensor(0.0, 0.2, 0.3),
        maximum=tensor(1.0, 0.5, 1.0),
    )
    torch.testing.assert_close(found, tensor(0.7, 0.0, 0.3))


def test_weight_that_fell_to_nothing_is_raised_to_its_smallest():
    found = bounded_weights(
        tensor(1.0, 0.0), tensor(0.5, 0.5), minimum=tensor(0.0, 0.0), maximum=tensor(0.6, 1.0)
    )
    torch.testing.assert_close(found, tensor(0.6, 0.4))


@pytest.mark.parametrize("change", [0.01, 0.1, 1.0])
def test_bounds_that_an_exhausted_domain_made_impossible_give_way(change):
    """Two domains are left, and their ceilings of 0.4 cannot make 1: they stay as near as they are."""
    weights, ceilings = tensor(0.7, 0.3, 0.0), tensor(0.4, 0.4, 0.4)
    found = bounded_weights(
        tensor(0.9, 0.1, 0.0), weights, minimum=ceilings * 0, maximum=ceilings, largest_change=change
    )
    assert found.sum().item() == pytest.approx(1, abs=1e-12) and found[2] == 0
    assert ((found - weights).abs() <= change + 1e-15).all()
    assert found[0] < 0.7 and found[1] > 0.3


def test_weights_beyond_their_bounds_go_back_as_fast_as_the_change_allows():
    weights = tensor(0.8, 0.1, 0.1)
    high = tensor(0.5, 1.0, 1.0)
    steps = []
    for _ in range(5):
        weights = bounded_weights(weights, weights, minimum=high * 0, maximum=high, largest_change=0.1)
        steps.append(round(weights[0].item(), 9))
    assert steps == [0.7, 0.6, 0.5, 0.5, 0.5]
