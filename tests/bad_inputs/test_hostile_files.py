"""Files that were made to do harm do none: each kind on a command that reads it, in a process of its own.

With ``SHEAR_LIT_HOSTILE=whole`` in the environment each kind is tried on every command that reads it, and bombs of
gigabytes, too; `make doors` does so, and edits every kind of file at random.
"""

import json
import os
import random
from dataclasses import replace

import pytest

from tests.bad_inputs import fuzz
from tests.bad_inputs.ending import Ending
from tests.bad_inputs.good import own_growth, write_good, write_sentencepiece
from tests.bad_inputs.hostile import CASES, FILES, HOSTILE, MADE, SECRET, Case, faults, run

WHOLE = os.environ.get("SHEAR_LIT_HOSTILE") == "whole"
TRIED = CASES if WHOLE else tuple(Case(kind, kind.commands[0]) for kind in HOSTILE if not kind.nightly)
ENDED_WELL = Ending(
    code=2, said="--- rank 0\nerror: it is refused. Correct it.\n", left=(), memory=0, seconds=0.1
)


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """One of every file, and a run made of them."""
    place = tmp_path_factory.mktemp("good") / "files"
    write_good(place, place.with_name("logs"))
    return place


@pytest.fixture(scope="session")
def found(good, tmp_path_factory):
    """What is wrong with how each case ended, and what it said."""
    ends = run(TRIED, good, tmp_path_factory.mktemp("hostile") / "work")
    return {case.name: (faults(case, ending, place), ending.said) for case, place, ending in ends}


def test_there_are_enough_cases_and_none_twice():
    assert len(TRIED) >= 60 and len({case.name for case in CASES}) == len(CASES)
    assert {command for case in CASES for command in [case.command.split()[0]]} >= {
        *("fit", "validate", "prepare", "check", "from", "data", "reference", "export", "evaluate", "verify"),
        *("rank", "mend", "gates", "demo", "completion"),
    }


def test_the_same_commands_end_well_on_good_files(good, tmp_path):
    """So that the refusals below are of what is hostile."""
    write_sentencepiece(good)
    names = {case.command for case in TRIED if not case.command.startswith(("fit", "demo"))}
    for name, ending in own_growth(sorted(names), good, tmp_path).items():
        assert ending.code == 0, (name, ending.said)


@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.name)
def test_hostile_file_is_refused_in_one_line_or_does_nothing(found, case):
    wrong, said = found[case.name]
    assert not wrong, said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"code": 0}, "ends with 0"),
        ({"code": -1}, "hangs"),
        ({"left": ("out.yaml",)}, "left or changed"),
        ({"memory": 1 << 31}, "it took"),
        ({"said": "no line"}, "one line"),
        ({"said": f"error: {SECRET}"}, "tells the secret"),
        ({"said": "Traceback\nerror: x"}, "traceback"),
        ({"said": "Run it? [y/N]\nerror: x"}, "asks"),
        ({"said": "error: x\nerror: y"}, "one line"),
    ],
    ids=str,
)
def test_whatever_a_hostile_file_does_is_seen(tmp_path, changes, words):
    """The twin of the above."""
    case = Case(replace(HOSTILE[0], harmless=False), "evaluate")
    wrong = faults(case, replace(ENDED_WELL, **changes), tmp_path)
    assert any(words in what for what in wrong) if words else not wrong
    (tmp_path / MADE).mkdir()
    assert "it ran" in faults(case, replace(ENDED_WELL, **changes), tmp_path)


def test_edits_are_the_same_for_the_same_seed_and_change_every_file(good):
    write_sentencepiece(good)
    for number in range(len(FILES) - 1):
        name, command, _ = fuzz.edit_of(number, 17)
        content = (good / FILES[name].path).read_bytes()
        made = [fuzz.edited(name, content, random.Random(seed)) for seed in [*range(8), *range(8)]]
        assert made[:8] == made[8:] and sum(edit != content for edit in made) > 8, name
        assert fuzz.edit_of(number, 17)[:2] == (name, command)
    assert len({fuzz.edit_of(number, 17)[0] for number in range(len(FILES) - 1)}) == len(FILES) - 1


def test_a_log_that_was_cut_goes_on_behind_its_last_whole_line(tmp_path):
    log = tmp_path / "edits.jsonl"
    log.write_text('{"number": 0}\n{"number": 1}\n{"num')
    assert [line["number"] for line in fuzz.lines_of(log)] == [0, 1]
    fuzz.kept(log, iter([{"number": 2}]))
    assert [json.loads(line)["number"] for line in log.read_text().splitlines()] == [0, 1, 2]
