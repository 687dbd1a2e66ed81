"""What a person reads, from a reference to a report, is what was looked at when the transcripts were stored."""

import os
import re

import pytest

from tests.commands.transcribing import COLUMNS, TRANSCRIPTS, masked, screen, transcript
from tests.commands.transcribing import WAYS as ALL_WAYS
from tests.training import forks

WAYS = ALL_WAYS if os.environ.get("SHEAR_LIT_LOOKS") == "all" else ("terminal", "log")
"""Pipes, too, in ``make looks``."""


@pytest.fixture(scope="module")
def transcripts(toy, tmp_path_factory):
    place = tmp_path_factory.mktemp("transcripts")
    running = {
        way: forks.start(transcript, place / f"log-{way}", root=toy.root, place=place / way, way=way)
        for way in WAYS
    }
    return {way: fork.wait()[0] for way, fork in running.items()}


@pytest.mark.parametrize("way", WAYS)
def test_transcript_is_the_stored_one(transcripts, way):
    """Rewritten by ``python -m tests.commands.transcribing --rewrite``."""
    assert transcripts[way] == (TRANSCRIPTS / f"{way}.txt").read_text()


@pytest.mark.parametrize("way", [way for way in WAYS if way != "terminal"])
def test_nothing_that_moves_a_cursor_is_written_off_a_terminal(transcripts, way):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", transcripts[way])


def test_no_line_is_glued_to_a_bar(transcripts):
    bars = [line for line in transcripts["terminal"].splitlines() if "BAR|" in line]
    assert bars
    for line in bars:
        assert re.fullmatch(r"[\w ]*:? *\d+%\|BAR\| [\d/]+ \[TIME<TIME, SPEED[^\]]*\]?", line), line


def test_screen_shows_what_is_left_of_what_was_written():
    assert screen("10%\r20%\r\x1b[Ka line\nbar") == "a line\nbar"
    assert screen("one\ntwo\n\x1b[A\rTWO") == "one\nTWO\n"
    assert screen("x" * (COLUMNS + 2)).splitlines() == ["x" * COLUMNS, "xx"]


def test_times_are_masked():
    said = "took 12 s, about 3 min left, tokens/s 1,234, loss 4.5678, 1.7e-07"
    assert masked(said) == "took TIME, about TIME left, tokens/s SPEED, loss 4.9999, SMALL\n"
