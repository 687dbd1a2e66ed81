"""How far gates are from a shape, in expectation."""

import pytest
import torch

from shear_lit.pruning.expectation import expected_units
from shear_lit.theory.hard_concrete import keep_probability
from shear_lit.theory.shape import Axis
from tests import tiny


def test_expected_units_are_summed_over_a_row_and_averaged_over_rows():
    rows = torch.tensor([[4.0, -4.0, 4.0], [4.0, 4.0, 4.0]])
    (found,) = expected_units({Axis.KV_HEADS: rows}, tiny.TARGET)
    sums = keep_probability(rows).sum(-1)
    assert (found.target, found.lowest, found.highest) == (1, float(sums.min()), float(sums.max()))
    assert found.mean == pytest.approx(float(sums.mean()))


@pytest.mark.parametrize(("kept", "off"), [(24, False), (25, True), (23, True)])
def test_two_percent_is_the_limit(kept, off):
    """Gates at the ends of their range: a unit is kept with probability 0.998, or with 0.046."""
    rows = torch.full((32,), -4.6)
    rows[:kept] = 4.6
    dropped = float(keep_probability(rows)[-1]) * (32 - kept)
    (found,) = expected_units({Axis.HIDDEN: rows}, tiny.TARGET)
    assert found.mean == pytest.approx(kept + dropped, abs=0.1)
    assert found.off_target is (abs(found.mean - 24) > 0.48) is off
