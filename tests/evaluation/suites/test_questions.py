"""The questions of a suite's tasks as texts: from its files, or one line that names what is not at hand."""

import json

import pytest

from shear_lit.evaluation.suites import questions as module
from shear_lit.evaluation.suites.errors import SuiteError
from shear_lit.evaluation.suites.questions import tasks_of_suite
from shear_lit.evaluation.suites.suite import read_suite


@pytest.fixture
def suite(tmp_path):
    row = {"question": "Who wrote it?", "choices": ["he", "she"], "answer": 0}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    (tmp_path / "s.yaml").write_text(
        "suite: mine\ntasks:\n  - {task: own, kind: multiple_choice, data: q.jsonl}\n  - {task: piqa}\n"
    )
    return read_suite(str(tmp_path / "s.yaml"))


def test_questions_of_files_are_those_of_the_fields(suite, monkeypatch):
    monkeypatch.setattr(module, "_of_harness", lambda suite, task: [])
    (task,) = tasks_of_suite(suite, ["question", "choices"])
    assert (task.name, task.examples) == ("mine/own", ("Who wrote it?\nhe\nshe",))


def test_tasks_that_are_not_at_hand_are_named_in_one_line(suite, monkeypatch):
    def absent(suite, task):
        raise OSError("no such data set\nin the cache")

    monkeypatch.setattr(module, "_of_harness", absent)
    with pytest.raises(SuiteError, match="1 of 2 tasks are not on this machine: piqa") as raised:
        tasks_of_suite(suite, ["question"])
    assert raised.value.key == "decontaminate.suites" and "\n" not in str(raised.value)
