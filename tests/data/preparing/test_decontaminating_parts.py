"""Decontamination where stages are done apart: the same bytes, the same questions, and no count."""

from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.decontamination_settings import DecontaminationSettings
from shear_lit.data.preparing.plan import PartNumber
from shear_lit.data.preparing.prepare import prepare, prepare_stage
from shear_lit.data.text.contamination.tasks import Task
from tests.data.preparing.corpora import in_parts, lines_of
from tests.data.preparing.test_decontaminating import document
from tests.data.text.contamination.test_cutting import OTHER, QUESTION
from tests.trees import tree

TEXTS = [document(n, QUESTION if n in (3, 17) else OTHER if n == 9 else "") for n in range(20)]


@pytest.fixture
def questions(tmp_path):
    """A file with two questions."""
    path = tmp_path / "questions.txt"
    path.write_text(f"{QUESTION}\n\n{OTHER}")
    return path


@pytest.fixture
def options(settings, write_jsonl, questions):
    asked = DecontaminationSettings(files=[str(questions)], most_documents=0)
    file = write_jsonl("one.jsonl", TEXTS[:12])
    return settings({"a": [file]}, decontaminate=asked, unit_bytes=9000, workers=1)


def test_parts_give_the_bytes_of_one_run_also_where_files_are_added(options, write_jsonl, tmp_path):
    whole = replace(options, output=str(tmp_path / "whole"))
    prepare(whole)
    assert in_parts(options, 3).decontamination.domains["a"].documents == 2
    assert tree(options.output) == tree(whole.output)
    domains = {"a": [*options.domains["a"], write_jsonl("two.jsonl", TEXTS[12:])]}
    prepare(replace(whole, domains=domains))
    assert in_parts(replace(options, domains=domains), 2).decontamination.domains["a"].documents == 3
    assert tree(options.output) == tree(whole.output)


def refused(do, key):
    with pytest.raises(DataError) as caught:
        do()
    assert caught.value.key == key and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("stage", ["tokenise", "select", "pack", "commit"])
def test_a_stage_by_itself_does_not_count(options, stage):
    counting = replace(options, decontaminate=replace(options.decontaminate, most_documents=10))
    said = refused(lambda: prepare_stage(counting, stage), "decontaminate.most_documents")
    assert "=10: in how many documents" in said and "Use decontaminate.most_documents=0" in said
    assert not Path(f"{options.output}.partial").exists()


@pytest.mark.parametrize("change", ["the file", "none", "the rule"])
def test_a_part_with_other_questions_is_refused_and_leaves_those_of_the_others(options, questions, change):
    prepare_stage(options, "tokenise", PartNumber(1, 2))
    work = Path(f"{options.output}.partial")
    before = tree(work)
    if change == "the file":
        questions.write_text(OTHER)
    changed = {
        "the file": options.decontaminate,
        "none": DecontaminationSettings(),
        "the rule": replace(options.decontaminate, most_words=8),
    }[change]
    other = replace(options, decontaminate=changed)
    said = refused(lambda: prepare_stage(other, "tokenise", PartNumber(2, 2)), "decontaminate")
    assert "other parts of this run were begun with" in said and "questions.txt" in said
    assert tree(work) == before


def test_numbers_of_tasks_that_came_in_another_order_are_not_used(options, questions, tmp_path):
    """What a part tokenised says of each task by its number."""
    files = [str(tmp_path / "first.txt"), str(tmp_path / "second.txt")]
    for file, text in zip(files, (QUESTION, OTHER), strict=True):
        Path(file).write_text(text)
    options = replace(options, decontaminate=replace(options.decontaminate, files=files))
    prepare_stage(options, "tokenise")
    manifest = prepare(replace(options, decontaminate=replace(options.decontaminate, files=files[::-1])))
    found = manifest.decontamination.domains["a"]
    assert found.tasks == {files[0]: 1, files[1]: 1} and found.examples[0].task == files[0]


def test_questions_of_suites_are_to_be_given(options, questions):
    asked = replace(options.decontaminate, suites=["mine"])
    named = replace(options, decontaminate=asked)
    assert "tasks_of_suite" in refused(lambda: prepare_stage(named, "tokenise"), "decontaminate.suites")
    manifest = prepare(named, tasks=[Task("mine/one", (QUESTION,))])
    assert [task.name for task in manifest.decontamination.tasks] == [str(questions), "mine/one"]


def test_what_a_pipeline_hands_over_is_cut_as_what_is_read_here(options, tmp_path):
    pytest.importorskip("datatrove", reason="the extra datatrove is not installed")
    from tests.data.preparing.test_datatrove import finished, handed_over

    files = {"x.jsonl": TEXTS[:10], "y.jsonl": TEXTS[10:]}
    for name, documents in files.items():
        (tmp_path / name).write_text(lines_of(documents))
    given = replace(options, domains={"web": "datatrove://"})
    plain = replace(options, domains={"web": str(tmp_path / "[xy].jsonl")}, output=str(tmp_path / "plain"))
    expected = prepare(plain)
    handed_over(given, 2, folder=tmp_path, files=files)
    manifest = finished(given)
    assert manifest.decontamination == expected.decontamination
    assert manifest.decontamination.domains["web"].documents == 3
    ours, theirs = tree(given.output), tree(plain.output)
    assert {name for name in ours if ours[name] != theirs.get(name)} == {
        "README.md",
        "manifest.json",
        ".ledger/1/inputs.jsonl",
    }
    counting = replace(
        given, decontaminate=replace(given.decontaminate, most_documents=10), output=str(tmp_path / "c")
    )
    refused(lambda: handed_over(counting, 1, folder=tmp_path, files=files), "decontaminate.most_documents")
