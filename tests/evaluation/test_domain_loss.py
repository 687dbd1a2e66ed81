"""Losses by domain: float64 sums of the stock cross entropy, each token counting the same."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from shear_lit.evaluation.document_loss import ratio
from shear_lit.evaluation.domain_loss import DomainLoss, mean_loss, measure_domain_losses
from shear_lit.theory.losses import IGNORED, Head, next_tokens, token_losses
from tests import tiny


def batch(sequences=6, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sequences, length, tiny.VOCABULARY, generator=generator)
    tokens = torch.randint(tiny.VOCABULARY, (sequences, length), generator=generator)
    return logits, tokens


def expected_loss(logits, tokens):
    flat = logits[:, :-1].reshape(-1, logits.shape[-1]).double()
    return float(cross_entropy(flat, tokens[:, 1:].reshape(-1)))


def update(metric, logits, tokens, domain, predicted=None):
    """Count a batch of logits, which are hidden states under a head that changes nothing."""
    labels = tokens if predicted is None else tokens.masked_fill(~predicted, IGNORED)
    targets = next_tokens(labels)
    metric.update(token_losses(logits, Head(torch.eye(logits.shape[-1])), targets), targets, domain)


def test_domain_loss_is_the_mean_over_the_tokens_of_a_domain():
    logits, tokens = batch()
    metric = DomainLoss(3)
    domain = torch.tensor([0, 2, 0, 0, 2, 2])
    update(metric, logits, tokens, domain)
    losses = metric.compute()
    assert losses.dtype == torch.float64
    for index in (0, 2):
        rows = domain == index
        # Single losses are float32 (about 4 with 2^-23 relative error); their sums are not.
        assert float(losses[index]) == pytest.approx(expected_loss(logits[rows], tokens[rows]), abs=1e-6)
    assert math.isnan(losses[1])


def test_updates_of_different_length_weigh_tokens_equally():
    long_logits, long_tokens = batch(length=9)
    short_logits, short_tokens = batch(length=3, seed=1)
    metric = DomainLoss(1)
    domain = torch.zeros(6, dtype=torch.int64)
    update(metric, long_logits, long_tokens, domain)
    update(metric, short_logits, short_tokens, domain)
    total = expected_loss(long_logits, long_tokens) * 48 + expected_loss(short_logits, short_tokens) * 12
    assert float(metric.compute()) == pytest.approx(total / 60, abs=1e-6)


def test_tokens_that_are_not_to_be_predicted_count_nowhere_even_if_not_finite():
    logits, tokens = batch()
    predicted = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    logits[:, :-1][~predicted[:, 1:]] = math.nan
    metric = DomainLoss(2)
    update(metric, logits, tokens, torch.tensor([0, 1, 0, 0, 1, 0]), predicted)
    of_first = torch.tensor([0, 2, 3, 5])
    counted = predicted[of_first, 1:]
    expected = cross_entropy(logits[of_first, :-1][counted].double(), tokens[of_first, 1:][counted])
    assert float(metric.compute()[0]) == pytest.approx(float(expected), abs=1e-6)
    assert metric.token_count.tolist() == [int(counted.sum()), int(predicted[[1, 4], 1:].sum())]


def test_padding_counts_nowhere_even_if_it_is_not_finite():
    logits, tokens = batch()
    domain = torch.tensor([0, 1, 0, 1, -1, -1])
    logits[4:] = torch.nan
    metric = DomainLoss(2)
    update(metric, logits, tokens, domain)
    expected = DomainLoss(2)
    update(expected, logits[:4], tokens[:4], domain[:4])
    torch.testing.assert_close(metric.compute(), expected.compute(), rtol=0, atol=0)


def test_domain_that_is_not_finite_leaves_the_others_alone():
    logits, tokens = batch()
    logits[0] = torch.nan
    metric = DomainLoss(2)
    update(metric, logits, tokens, torch.tensor([0, 1, 1, 1, 1, 1]))
    losses = metric.compute()
    assert math.isnan(losses[0]) and math.isfinite(losses[1])


def test_errors_are_those_of_the_ratio_over_sequences():
    """Sequences of different lengths, over two updates; a domain of one sequence has no error."""
    logits, tokens = batch()
    predicted = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    domain = torch.tensor([0, 1, 0, 0, -1, 0])
    metric = DomainLoss(2)
    for rows in (slice(0, 3), slice(3, 6)):
        update(metric, logits[rows], tokens[rows], domain[rows], predicted[rows])
    metric.compute()
    sums, sizes = [], []
    for row in (0, 2, 3, 5):
        counted = predicted[row, 1:]
        losses = cross_entropy(logits[row, :-1][counted].double(), tokens[row, 1:][counted], reduction="none")
        sums.append(float(losses.sum()))
        sizes.append(float(counted.sum()))
    assert float(metric.errors[0]) == pytest.approx(ratio(np.array(sums), np.array(sizes))[1], rel=1e-5)
    assert math.isnan(metric.errors[1])


def test_ranks_merge_by_their_sums():
    """Two processes, each with part of the batches, then reduced as declared, are one process with all."""
    logits, tokens = batch()
    domain = torch.tensor([0, 1, 0, 1, 1, 1])
    ranks = [DomainLoss(2), DomainLoss(2)]
    for rank, rows in zip(ranks, (slice(0, 2), slice(2, 6)), strict=True):
        update(rank, logits[rows], tokens[rows], domain[rows])
    whole = DomainLoss(2)
    update(whole, logits, tokens, domain)
    for state in ("loss_sum", "token_count", "products"):
        reduce = whole._reductions[state]
        merged = reduce(torch.stack([getattr(rank, state) for rank in ranks]))
        torch.testing.assert_close(merged, getattr(whole, state), rtol=1e-15, atol=0)


def test_metric_can_be_reset_in_inference_mode_and_used_outside():
    logits, tokens = batch()
    metric = DomainLoss(1)
    domain = torch.zeros(6, dtype=torch.int64)
    with torch.inference_mode():
        update(metric, logits, tokens, domain)
        metric.reset()
        update(metric, logits, tokens, domain)
    update(metric, logits, tokens, domain)
    assert float(metric.compute()) == pytest.approx(expected_loss(logits, tokens), abs=1e-6)
    assert metric.loss_sum.dtype == torch.float64


def test_measured_losses_are_those_of_the_model_by_name():
    network = tiny.model(tiny.config()).train()
    _, tokens = batch(sequences=4)
    domain = torch.tensor([0, 1, 1, -1])
    batches = [{"tokens": tokens[:2], "domain": domain[:2]}, {"tokens": tokens[2:], "domain": domain[2:]}]
    losses = measure_domain_losses(network, batches, ["wiki", "code", "empty"])
    assert network.training
    with torch.inference_mode():
        logits = network.eval()(tokens).logits
    assert losses["wiki"] == pytest.approx(expected_loss(logits[:1], tokens[:1]), abs=2e-6)
    assert losses["code"] == pytest.approx(expected_loss(logits[1:3], tokens[1:3]), abs=2e-6)
    assert math.isnan(losses["empty"])
    assert mean_loss(losses) == pytest.approx((losses["wiki"] + losses["code"]) / 2)
