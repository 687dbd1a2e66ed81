"""Places are divided among the splits by shares and by tokens; nothing is in two, or in none that is wanted."""

import numpy as np
import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.preparing import selecting
from shear_lit.data.preparing.selecting import place_below, split_bounds, split_of
from shear_lit.data.preparing.settings import SplitShares, SplitTokens
from shear_lit.data.text.documents import document_hash, place_of

SHARES = SplitShares()


def no_tokens(*_):
    raise AssertionError("no split is sized in tokens")


def test_shares_are_ranges_of_places_in_order():
    assert split_bounds(SHARES, SplitTokens(), no_tokens) == {
        "prune": (0.0, 0.2),
        "pretrain": (0.2, 0.95),
        "validation": (0.95, 1.0),
    }


def test_splits_sized_in_tokens_come_first_and_the_others_share_the_rest():
    bounds = split_bounds(SHARES, SplitTokens(validation=7), lambda split, top, tokens: top - 0.5)
    assert list(bounds) == ["prune", "pretrain", "validation"]
    assert bounds["validation"] == (0.5, 1.0) and bounds["pretrain"][1] == 0.5
    assert bounds["prune"] == (0.0, pytest.approx(0.5 * 0.2 / 0.95))
    tokens = SplitTokens(prune=1, pretrain=2, validation=3)
    assert split_bounds(SHARES, tokens, lambda split, top, tokens: top - tokens / 10) == {
        "prune": (pytest.approx(0.4), pytest.approx(0.5)),
        "pretrain": (pytest.approx(0.5), pytest.approx(0.7)),
        "validation": (pytest.approx(0.7), 1.0),
    }
    shares = SplitShares(prune=0.0, pretrain=1.0, validation=0.0)
    assert list(split_bounds(shares, SplitTokens(prune=5), lambda *_: 0.25)) == ["prune", "pretrain"]


@pytest.mark.parametrize("place", [0, 1, (1 << 64) - 1, (1 << 64) - 2**11, 1 << 63])
def test_every_place_has_one_split_also_where_rounding_makes_it_1(place):
    bounds = split_bounds(SHARES, SplitTokens(), no_tokens)
    split = selecting._splits_of(bounds, np.array([place], dtype=np.uint64))[0]
    assert split == (0 if place < 0.2 * 2**64 else 1 if place < 0.95 * 2**64 else 2)


def test_places_no_split_wants_are_in_none():
    places = np.array([1 << 62, 1 << 63], dtype=np.uint64)
    assert selecting._splits_of({"validation": (0.5, 1.0)}, places).tolist() == [selecting._NOWHERE, 0]


def test_split_of_a_text_ignores_case_and_white_space_and_nothing_else():
    assert document_hash("Two  words\n") == document_hash("two WORDS") != document_hash("twowords")
    assert document_hash("Straße") == document_hash("STRASSE")
    text = "some text"
    found = split_of(SHARES, text)
    low, high = split_bounds(SHARES, SplitTokens(), no_tokens)[found]
    assert low <= place_of(text) < high


def test_a_negative_size_is_refused():
    with pytest.raises(DataError, match=r"tokens\.validation=-1"):
        SplitTokens(validation=-1)


@pytest.mark.parametrize("wanted", [1, 500, 12_345, 40_000])
@pytest.mark.parametrize("top", [1.0, 0.75])
def test_the_threshold_gives_the_tokens_asked_for_and_not_a_document_more(wanted, top):
    numbers = np.random.default_rng(0)
    places = numbers.integers(0, 1 << 64, 5000, dtype=np.uint64)
    lengths = numbers.integers(1, 30, 5000).astype(np.uint32)
    parts = [(places[:1234], lengths[:1234]), (places[1234:], lengths[1234:])]
    found, there = place_below(lambda: iter(parts), top, wanted)
    fractions = places / 2**64
    behind = (fractions >= found) & (fractions < top)
    assert there == lengths[behind].sum() >= wanted
    first = np.flatnonzero(behind)[fractions[behind].argmin()]
    assert there - lengths[first] < wanted


def test_too_few_tokens_are_told():
    parts = [(np.array([1 << 62], dtype=np.uint64), np.array([10], dtype=np.uint32))]
    assert place_below(lambda: iter(parts), 1.0, 11) == (0.0, 10)
    assert place_below(lambda: iter(parts), 1.0, 10) == (0.25, 10)
    assert place_below(lambda: iter(()), 1.0, 10) == (0.0, 0)
