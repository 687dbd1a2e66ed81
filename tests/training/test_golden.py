"""The losses of every kind of run are those that are stored (``tests.training.golden``)."""

import json

import pytest

from tests.training.golden import KINDS, STORED, differences, measured

TOLERANCE = 1e-5
"""Of float32 sums over 20 steps, which another processor orders otherwise; one machine gives the same bits."""


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_the_stored_ones(toy, tmp_path, kind):
    moved = differences(json.loads(STORED.read_text())[kind], measured(toy, tmp_path, kind))
    assert max(moved.values()) <= TOLERANCE, moved


def test_another_loss_is_seen():
    """The twin: one number of one step is another."""
    stored = json.loads(STORED.read_text())["pretrain"]
    changed = json.loads(json.dumps(stored))
    changed["language_loss"][7] += 2e-4
    assert differences(stored, changed)["language_loss"] > TOLERANCE
    del changed["validation"]["8"]
    assert differences(stored, changed)["validation"] == float("inf")
