"""Figures of answers by hand, and the rate of wins with its interval."""

import math

import numpy as np
import pytest

from shear_lit.evaluation.answers.figures import Answer, Answers, answer_differences, answer_table
from shear_lit.evaluation.answers.win_rate import Verdict, WinRate, win_table


def answer(text, *, ended=True):
    return Answer(text=text, tokens=len(text.split()), ended=ended)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("one two three", 0.0),
        ("one two three four five", 0.0),
        ("a b c d a b c d", 1 / 5),
        ("no " * 10, 6 / 7),
        ("", 0.0),
    ],
)
def test_repeated_share_is_that_counted_by_hand(text, share):
    assert answer(text).repeated == pytest.approx(share)


def answers(losses, texts, *, tokens=4, size=10):
    rows = np.array([[loss, tokens, size] for loss in losses], dtype=np.float64)
    return Answers(references=rows, answers=tuple(answer(text) for text in texts))


def test_differences_are_paired_and_in_bits_where_tokens_differ():
    first = answers([4.0, 8.0, 2.0], ["one two", "three", "four five six"])
    other = answers([3.0, 6.0, 2.0], ["one", "three", "four five"])
    found = answer_differences(first, other)
    assert found["reference, loss"].value == pytest.approx(-3 / 12)
    assert found["answer, words"].value == pytest.approx(-2 / 3)
    more = answers([3.0, 6.0, 2.0], ["one", "three", "four five"], tokens=5)
    found = answer_differences(first, more)
    assert found["reference, bits per byte"].value == pytest.approx(-3 / math.log(2) / 30)
    table = answer_table([("first", first), ("other", other)]).in_markdown()
    assert "| first |" in table and "1.1667" in table and "3 prompts" in table


def test_wins_are_those_of_both_orders():
    said = [(1, 1), (1, 0), (0, 1), (0, 0), (0.5, 0.5), (1, 0.5), (None, 1), (None, None)]
    verdicts = tuple(Verdict(own_first=first, own_second=second) for first, second in said)
    rate = WinRate(model="mine", against="theirs", judge="wise", verdicts=verdicts)
    assert [verdict.value for verdict in verdicts] == [1, 0.5, 0.5, 0, 0.5, 0.5, 0.5, 0.5]
    assert rate.counts == (1, 6, 1) and rate.unclear == 2
    assert sum(verdict.by_order for verdict in verdicts) == 2
    assert rate.rate.value == 0.5 and rate.rate.low < 0.5 < rate.rate.high
    assert "| mine  |  theirs |    1 |    6 |      1 | 50.0 [" in win_table([rate]).in_markdown()


def test_interval_of_a_rate_covers_it_as_often_as_it_says():
    """Of 200 judges that prefer one model with 0.7, about 95 % have an interval around that."""
    numbers, covered = np.random.default_rng(0), 0
    for _ in range(200):
        wins = numbers.random(100) < 0.7
        verdicts = tuple(Verdict(own_first=float(win), own_second=float(win)) for win in wins)
        found = WinRate(model="a", against="b", judge="c", verdicts=verdicts).rate
        covered += found.low <= 0.7 <= found.high
    # Four standard errors of a share of 0.94 (the bootstrap of 100 is a little narrow) over 200.
    assert 0.87 <= covered / 200 <= 1.0
