"""How far work is: bars where a person watches, lines elsewhere, neither in each other's way."""

import io
import logging
import sys

import pytest

from shear_lit import progress
from shear_lit.progress import LineHandler, Progress, duration, time_left, watched


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_work_off_a_terminal_says_now_and_then_how_far_it_is(clock, caplog):
    caplog.set_level(logging.INFO)
    with Progress("Measuring losses", 100, "batch") as work:
        for _ in range(50):
            clock[0] += 2
            work.add()
    assert caplog.messages == [
        "Measuring losses: 10 of 100 batches, about 3 min left",
        "Measuring losses: 40 of 100 batches, about 2 min left",
    ]


def test_work_of_unknown_size_has_no_time_left(clock, caplog):
    caplog.set_level(logging.INFO)
    work = Progress("Ranking", None, "passage")
    clock[0] = 30
    work.add(7)
    assert caplog.messages == ["Ranking: 7 passages"]


def test_bytes_are_said_in_megabytes_with_a_note(clock, caplog):
    caplog.set_level(logging.INFO)
    work = Progress("Tokenising", 4_000_000, "B", bytes_of=True)
    clock[0] = 30
    work.add(1_000_000, "5,000 documents")
    assert caplog.messages == ["Tokenising: 1.0 MB of 4.0 MB, 5,000 documents, about 2 min left"]


def test_short_work_says_nothing(clock, caplog):
    caplog.set_level(logging.INFO)
    assert list(watched(range(3), "Checking", "file")) == [0, 1, 2]
    assert caplog.messages == []


@pytest.mark.parametrize("name", [progress.QUIET, "RANK", "LOCAL_RANK"])
def test_quiet_and_other_processes_say_nothing(clock, caplog, monkeypatch, name):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    work = Progress("Ranking", None, "passage")
    clock[0] = 30
    work.add()
    assert caplog.messages == [] and sys.stderr.getvalue() == ""


def test_line_that_is_logged_stands_above_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    log = logging.Logger("a log")
    log.addHandler(LineHandler())
    with Progress("Repairing", 3, "block") as work:
        work.add()
        log.warning("a line")
        work.add()
    before, found, after = sys.stderr.getvalue().partition("a line\n")
    assert found and before.endswith("\r") and "Repairing" in before and "Repairing" in after


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (300, "5 min"), (7200, "2.0 h"), (86400 * 3, "3.0 days")],
)
def test_durations_have_the_unit_of_their_size(seconds, said):
    assert duration(seconds) == said and time_left(seconds) == f"about {said} left"
