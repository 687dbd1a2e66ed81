"""Every wrong command line of the table ends with one line that says what to change, and leaves nothing behind."""

import os
import shutil

import pytest

from shear_lit.commands.rank import rank
from tests.bad_inputs.ending import Ending, endings
from tests.bad_inputs.table import CASES as ALL
from tests.bad_inputs.table import Case
from tests.toy import CONFIGS

_RUNS = [case for case in ALL if case.words[0] == "fit+"]
WHOLE = os.environ.get("SHEAR_LIT_HOSTILE") == "whole"
CASES = ALL if WHOLE else [case for case in ALL if case not in _RUNS or _RUNS.index(case) % 5 == 0]
"""Of wrong inputs to a run, which take the longest, each fifth; all of them in ``make doors``."""


@pytest.fixture(scope="session")
def places(toy, whole, tmp_path_factory):
    """What the table's names stand for: a toy with scores, and a finished run."""
    root = tmp_path_factory.mktemp("wrong")
    shutil.copytree(toy.root, root / "toy")
    rank(
        source=str(root / "toy" / "gqa-tied"),
        output=str(root / "toy" / "scores.safetensors"),
        criterion="weight",
    )
    run, _ = whole("prune")
    return {"toy": str(root / "toy"), "run": str(run), "root": root}


def command_line(case: Case, toy, names: dict[str, str]) -> list[str]:
    first, *others = case.words
    words = [first]
    if first.endswith("+"):
        stage = "prune" if first == "fit+" else "pretrain"
        words = [
            first.removesuffix("+").replace("pretrain", "fit"),
            f"--config={CONFIGS / 'toy' / f'{stage}.yaml'}",
        ]
        words += [
            "--model.source={toy}/gqa-tied",
            "--data.directory={toy}/data",
            "--trainer.default_root_dir={work}/run",
        ]
        if words[0] == "validate":
            words.pop()
    for name, value in names.items():
        words, others = ([word.replace(f"{{{name}}}", value) for word in each] for each in (words, others))
    return [*words, *others]


@pytest.fixture(scope="session")
def ended(places, toy) -> dict[Case, Ending]:
    """How each case ended."""
    commands = []
    for number, case in enumerate(CASES):
        work = places["root"] / f"case-{number}"
        work.mkdir()
        names = {"toy": places["toy"], "run": places["run"], "work": str(work)}
        commands.append((command_line(case, toy, names), work))
    found = endings(commands, places["root"] / "logs")
    return dict(zip(CASES, found, strict=True))


def test_there_are_enough_cases_and_none_twice():
    assert len(CASES) >= 200 and len({case.words for case in ALL}) == len(ALL)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input_gets_one_line_and_leaves_nothing(ended, case):
    ending = ended[case]
    assert "Traceback" not in ending.said
    (line,) = ending.lines
    assert ending.said.rstrip().endswith(line), ending.said
    for words in case.says:
        assert words in line, line
    assert "Nobody foresaw" not in line
    assert ending.code == case.code and ending.left == ()
