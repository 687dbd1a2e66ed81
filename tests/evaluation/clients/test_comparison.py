"""How far a client is from the reference, and when greedy tokens part for no reason but rounding."""

import numpy as np
import pytest

from shear_lit.evaluation.clients.asking import Answer
from shear_lit.evaluation.clients.comparison import TOLERANCE, Expected, difference, first_other_token

LOGITS = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32) * 3


def answered(tmp_path, logits, **entries):
    path = tmp_path / "logits.npy"
    np.save(path, logits)
    return Answer(directory="d", logits=str(path), **entries)


def test_figure_is_the_largest_difference_as_a_share_of_the_scale(tmp_path):
    changed = LOGITS.copy()
    changed[2, 3] += 0.5
    found = difference(answered(tmp_path, changed), Expected(logits=LOGITS))
    assert found.figure == pytest.approx(0.5 / np.abs(LOGITS).max())
    assert not found.same


def test_log_probabilities_of_some_positions_are_compared_with_theirs(tmp_path):
    positions = [1, 4]
    chosen = LOGITS[positions].astype(np.float64)
    log_probabilities = chosen - np.log(np.exp(chosen).sum(-1, keepdims=True))
    answer = answered(tmp_path, log_probabilities, kind="log_probabilities", positions=positions)
    found = difference(answer, Expected(logits=LOGITS))
    assert found.same and (found.argmax, found.positions) == (2, 2)


def test_another_position_another_vocabulary_and_nan_are_not_the_same(tmp_path):
    expected = Expected(logits=LOGITS)
    assert not difference(answered(tmp_path, LOGITS[::-1]), expected).same
    assert not difference(answered(tmp_path, LOGITS[:, :-1]), expected).same
    assert not difference(answered(tmp_path, np.full_like(LOGITS, np.nan)), expected).same


def test_tie_is_told_from_another_token():
    along = np.zeros((3, 4), dtype=np.float32)
    along[:, 1] = 1.0
    along[2, 2] = 1.0 - TOLERANCE
    expected = Expected(logits=along, greedy=[1, 1, 1], greedy_logits=along)
    assert first_other_token([1, 1, 1], expected) == (None, False)
    assert first_other_token([1, 1, 2], expected) == (2, True)
    assert first_other_token([1, 3, 2], expected) == (1, False)
    assert first_other_token([1, 1], expected) == (2, False)
