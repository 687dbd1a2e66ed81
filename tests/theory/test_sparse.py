"""What is kept of a teacher: exact if it is all, at most the whole if a part, right on average if tokens are drawn."""

import math

import pytest
import torch

from shear_lit.theory import losses, sparse
from shear_lit.theory.losses import Weights, objective, sparse_targets
from shear_lit.theory.sparse import Sparse, sampled, sparse_divergence, top_k
from tests.theory.test_losses import VOCABULARY, case, gradients, logits_of

SPREAD = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
KINDS = [{}, {"bias": True}, {"cap": 1.5}]


def kept_of(teacher, kept, temperature=1.0):
    return sparse_targets(*teacher, temperature, lambda log_p, _: top_k(log_p, kept))


def drawn(teacher, kept, uniform, temperature=1.0):
    return sparse_targets(
        *teacher, temperature, lambda log_p, part: sampled(log_p, kept, uniform.flatten()[part])
    )


def outcomes(hidden, head, targets, said, weights):
    """The divergence by the definition, with one more outcome for what is outside, by automatic differentiation."""
    log_q = (logits_of(hidden, head) / weights.temperature).log_softmax(-1)
    q, total = log_q.exp(), 0.0
    for row in (targets != losses.IGNORED).nonzero()[:, 0].tolist():
        chosen = said.tokens[row]
        total = total + (said.shares[row] * (said.shares[row].log() - log_q[row, chosen])).sum()
        others = torch.ones(VOCABULARY, dtype=torch.bool).index_fill(0, chosen, False)
        if others.any():
            total = total + said.outside[row] * (said.outside[row] / q[row, others].sum()).log()
    return total * weights.temperature**2


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_all_tokens_kept_are_the_whole_divergence(monkeypatch, options, temperature):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 4 * VOCABULARY)
    weights = Weights(language=0.6, divergence=0.4, temperature=temperature)
    hidden, head, targets, teacher = case(**options)
    whole = objective(hidden, head, targets, weights, teacher)
    found = objective(hidden, head, targets, weights, kept_of(teacher, VOCABULARY, temperature))
    torch.testing.assert_close(tuple(found), tuple(whole), rtol=1e-12, atol=1e-12)
    slopes = gradients(found.total, hidden, head), gradients(whole.total, hidden, head)
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kept", [1, 5, VOCABULARY - 1])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_top_k_with_the_mass_outside_is_the_divergence_of_these_outcomes(monkeypatch, kept, temperature):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 3 * VOCABULARY)
    weights = Weights(language=0.0, divergence=0.7, temperature=temperature)
    hidden, head, targets, teacher = case(bias=True)
    said = kept_of(teacher, kept, temperature)
    found = objective(hidden, head, targets, weights, said)
    wanted = outcomes(hidden, head, targets, said, weights)
    torch.testing.assert_close(found.divergence, wanted.detach(), rtol=1e-11, atol=1e-12)
    slopes = gradients(found.total, hidden, head), gradients(0.7 * wanted, hidden, head)
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)
    whole = objective(hidden, head, targets, weights, teacher).divergence
    assert float(found.divergence) <= float(whole) * (1 + 1e-12)


def means_of_draws(kept, numbers):
    """The mean divergence and gradient over draws whose uniform numbers are spread evenly, and the whole ones."""
    weights, times = Weights(language=0.0, divergence=1.0, temperature=1.5), len(numbers)
    hidden, head, targets, teacher = case()
    whole = objective(hidden, head, targets, weights, teacher)
    again = teacher._replace(hidden=teacher.hidden.repeat(times, 1))
    said = drawn(again, kept, numbers.repeat_interleave(len(targets)), 1.5)
    found = objective(hidden.repeat(times, 1), head, targets.repeat(times), weights, said)
    means = found.divergence / times, *(part / times for part in gradients(found.total, hidden, head))
    return means, (whole.divergence, *gradients(whole.total, hidden, head))


@pytest.mark.parametrize("kept", [1, 3])
def test_draws_are_right_on_average_in_value_and_gradient(kept):
    """The mean over N evenly spread numbers is that over all but for the ends of the tokens: O(1/N)."""
    found, wanted = means_of_draws(kept, SPREAD)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).abs().max()) <= 0.01 * float(other.abs().max())


def test_draws_that_prefer_the_first_tokens_are_found(monkeypatch):
    """The twin of the test above: the same check fails where draws are not by p."""
    as_it_is = sparse.sampled
    monkeypatch.setitem(
        globals(), "sampled", lambda log_p, kept, uniform: as_it_is(log_p, kept, uniform.square())
    )
    found, wanted = means_of_draws(1, SPREAD)
    assert float((found[1] - wanted[1]).abs().max()) > 0.05 * float(wanted[1].abs().max())


def test_a_token_is_drawn_as_often_as_its_probability_says_to_one():
    log_p = torch.randn(50, VOCABULARY, dtype=torch.float64).mul(2).log_softmax(-1)
    said = sampled(log_p, 16, torch.rand(50, dtype=torch.float64))
    times = torch.zeros_like(log_p).scatter_add_(1, said.tokens, torch.ones_like(said.shares))
    assert bool((times >= (16 * log_p.exp() - 1e-9).floor()).all())
    assert bool((times <= (16 * log_p.exp() + 1e-9).ceil()).all())


def test_sharp_distributions_stay_finite():
    """A teacher that is sure, and a model that gives what it says no mass that a float32 could hold."""
    sure = torch.tensor([[0.0, -200.0, -300.0]]).log_softmax(-1)
    doubtful = torch.tensor([[0.1, 0.0, -0.1]]).log_softmax(-1)
    for log_p in (sure, doubtful, torch.tensor([[0.0, -math.inf, -math.inf]])):
        for log_q in (sure, sure.flip(1), doubtful):
            for said in (top_k(log_p, 1), top_k(log_p, 3), sampled(log_p, 2, torch.zeros(1))):
                found, slope = sparse_divergence(log_q, said, needs=True)
                assert bool(found.isfinite().all()) and slope is not None and bool(slope.isfinite().all())


def test_rows_keep_their_order_in_any_layout():
    said = Sparse(torch.arange(12).view(2, 3, 2), torch.ones(2, 3, 2), torch.ones(2, 3), torch.zeros(2, 3))
    assert said.row_wise().at(slice(4, 6)).tokens.tolist() == [[8, 9], [10, 11]]
