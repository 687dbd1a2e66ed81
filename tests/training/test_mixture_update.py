"""The mixture follows the losses of each validation, and holds for the steps until the next."""

import numpy as np
import pytest

from tests.toy import DOMAINS

REFERENCES = np.array([2.0, 2.5, 3.0])
START = np.array([0.5, 0.3, 0.2])
STATIC = ("--data.mixture.rule=static", "--data.mixture.references=null")


def weights(mixture):
    return np.array([mixture[domain] for domain in DOMAINS])


@pytest.mark.parametrize(("stage", "steps"), [("prune", [4, 8, 12]), ("pretrain", [0, 4, 8, 12])])
def test_mixture_moves_after_each_validation(whole, stage, steps):
    """w exp(max(0, loss - reference)), normalised (arXiv:2310.06694, algorithm 1); before step 0 where asked for."""
    (record,) = whole(stage)[1]
    assert list(record["mixtures"]) == steps
    before = START
    for step in steps:
        losses = record["domain_losses"][step].numpy()
        expected = before * np.exp(np.maximum(0, losses - REFERENCES))
        expected /= expected.sum()
        np.testing.assert_allclose(weights(record["mixtures"][step]), expected, rtol=1e-12)
        before = expected


@pytest.mark.parametrize(("stage", "flags"), [("prune", ()), ("pretrain", ()), ("pretrain", STATIC)])
def test_each_segment_is_drawn_with_the_mixture_before_it(whole, stage, flags):
    """What a domain was given differs from what it should have by less than one sequence at either end."""
    (record,) = whole(stage, *flags)[1]
    mixture = record["mixtures"].get(0, dict(zip(DOMAINS, START, strict=True)))
    for start in (0, 4, 8):
        mixture = record["mixtures"].get(start, mixture)
        drawn = np.zeros(3)
        for (step, _), batch in record["batches"].items():
            if start <= step < start + 4:
                drawn += np.bincount(batch["domain"].numpy(), minlength=3)
        assert drawn.sum() == 32
        assert (np.abs(drawn - 32 * weights(mixture)) < 2).all()


def test_static_mixture_stays(whole):
    (record,) = whole("pretrain", *STATIC)[1]
    for mixture in record["mixtures"].values():
        np.testing.assert_array_equal(weights(mixture), START)
