"""Losses of training between two moves of a mixture: kept in a checkpoint, and taken once."""

import torch

from shear_lit.training.training_losses import TrainingLosses


def alone(total):
    return total


def added(losses, value):
    """Two sequences of three tokens, of the first domain."""
    targets = torch.ones(2, 3, dtype=torch.int64)
    losses.update(torch.full((2, 3), value), targets, torch.zeros(2, dtype=torch.int64))


def test_losses_of_one_domain_are_a_vector_and_taken_once():
    losses = TrainingLosses(1)
    for value in (2.0, 3.0):
        added(losses, value)
        assert losses.taken(alone).tolist() == [value]


def test_a_run_that_goes_on_may_take_them_before_it_trains():
    """As it does where the checkpoint was written before the validation of its step."""
    before, after = TrainingLosses(2), TrainingLosses(2)
    added(before, 2.5)
    after.go_on(before.gathered(alone, rank=0), rank=0)
    first, second = after.taken(alone).tolist()
    assert first == 2.5 and second != second


def test_other_processes_begin_with_nothing():
    before, other = TrainingLosses(1), TrainingLosses(1)
    added(before, 2.5)
    other.go_on(before.gathered(alone, rank=1), rank=1)
    assert not before.token_count.any() and not other.token_count.any()
