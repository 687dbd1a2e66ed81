"""The paired bootstrap against a direct simulation: what its interval covers, and what pairing is worth."""

import math

import numpy as np
import pytest

from shear_lit.evaluation.paired import Difference, Units, paired_difference


def corpus(numbers, documents=120, gap=0.05):
    """Two models on the same documents of random lengths; what makes a document hard is common to both."""
    sizes = numbers.integers(10, 80, documents).astype(float)
    hard = 3 + 0.6 * numbers.standard_normal(documents)
    first = sizes * hard + np.sqrt(sizes) * numbers.standard_normal(documents)
    other = sizes * (hard + gap) + np.sqrt(sizes) * numbers.standard_normal(documents)
    return first, other, sizes


def test_interval_covers_the_difference_in_93_to_97_of_100_corpora():
    numbers, inside, widths, values = np.random.default_rng(2), 0, [], []
    for seed in range(1000):
        first, other, sizes = corpus(numbers)
        found = paired_difference([Units(differences=other - first, sizes=sizes)], seed=seed, resamples=400)
        inside += found.low <= 0.05 <= found.high
        widths.append(found.high - found.low)
        values.append(found.value)
    assert 0.93 <= inside / 1000 <= 0.97
    assert np.mean(widths) / 3.92 == pytest.approx(np.std(values), rel=0.1)


def test_resamples_are_those_of_a_loop():
    """The same draws, one by one, by hand."""
    first, other, sizes = corpus(np.random.default_rng(0), documents=15)
    groups = [Units(differences=other - first, sizes=sizes), Units(differences=first[:5], sizes=sizes[:5])]
    found = paired_difference(groups, seed=3, resamples=200)
    numbers, drawn = np.random.default_rng(3), np.zeros(200)
    for group in groups:
        for place, chosen in enumerate(numbers.integers(0, len(group.sizes), (200, len(group.sizes)))):
            drawn[place] += (
                sum(group.differences[i] for i in chosen) / sum(group.sizes[i] for i in chosen) / 2
            )
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=1e-12)
    assert found.value == pytest.approx(sum(g.differences.sum() / g.sizes.sum() for g in groups) / 2)


def test_pairing_finds_what_two_errors_do_not():
    """The twin: without pairing, the same documents tell nothing."""
    first, other, sizes = corpus(np.random.default_rng(1), gap=0.08)
    paired = paired_difference([Units(differences=other - first, sizes=sizes)])
    shuffled = np.random.default_rng(0).permutation(len(sizes))
    unpaired = paired_difference([Units(differences=other[shuffled] - first, sizes=sizes)])
    assert not paired.holds_zero
    assert unpaired.high - unpaired.low > 3 * (paired.high - paired.low)


def test_mark_stands_where_the_interval_holds_zero():
    assert "(0 inside)" in str(Difference(value=0.1, low=-0.1, high=0.3))
    assert "(0 inside)" not in str(Difference(value=0.2, low=0.1, high=0.3))
    single = paired_difference([Units(differences=np.ones(1), sizes=np.ones(1))])
    assert math.isnan(single.low) and single.holds_zero
