"""A sample of a domain: spread over all of it, in few chunks, the same for every run and machine."""

import numpy as np
import pytest

from shear_lit.data.order.permutation import WINDOW_CHUNKS, sample


def test_sample_never_changes():
    """Losses that were measured before are compared with later ones: these numbers are written down."""
    assert sample("wiki", [40, 40, 20], 8).tolist() == [11, 24, 25, 45, 60, 74, 77, 89]
    assert sample("code", [10] * 100, 6).tolist() == [15, 175, 391, 631, 635, 856]


@pytest.mark.parametrize("count", [1, 2, 7, 64, 99, 100])
def test_sample_has_one_sequence_of_each_equal_part(count):
    found = sample("a", [30, 30, 30, 10], count)
    assert found.tolist() == sorted(set(found.tolist())) and len(found) == count
    assert all(k * 100 // count <= n < (k + 1) * 100 // count for k, n in enumerate(found.tolist()))


def test_sample_of_fewer_than_are_asked_for_is_all_there_are():
    assert sample("a", [5, 5, 3], 13).tolist() == sample("a", [5, 5, 3], 500).tolist() == list(range(13))
    assert sample("a", [], 5).tolist() == [] and sample("a", [1], 5).tolist() == [0]


def test_every_sequence_can_be_drawn():
    """The offset inside a part is not always the same one: other names see other sequences."""
    few = set().union(*(sample(f"d{i}", [50, 50], 3).tolist() for i in range(400)))
    many = set().union(*(sample(f"d{i}", [3] * 20, 4).tolist() for i in range(400)))
    assert few == set(range(100)) and many == set(range(60))


@pytest.mark.parametrize("chunks", [9, 100, 1001])
def test_sample_touches_few_chunks_that_are_spread_over_the_domain(chunks):
    found = sample("a", [1000] * chunks, 128)
    touched = np.unique(found // 1000)
    assert len(touched) == WINDOW_CHUNKS and len(set(found.tolist())) == 128
    for k, chunk in enumerate(touched.tolist()):
        assert k * chunks // WINDOW_CHUNKS <= chunk < (k + 1) * chunks // WINDOW_CHUNKS
    assert np.bincount(np.searchsorted(touched, found // 1000)).tolist() == [16] * WINDOW_CHUNKS


def test_small_chunks_are_no_reason_for_a_smaller_sample():
    found = sample("a", [5] * 100, 128)
    assert len(set(found.tolist())) == 128 and len(np.unique(found // 5)) == 32
    assert len(sample("a", [5] * 100, 499)) == 499
