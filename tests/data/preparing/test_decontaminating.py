"""Text of evaluation tasks is cut out while text is prepared, counted, and written down."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import MANIFEST, PAGE
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.decontamination_settings import DecontaminationSettings
from shear_lit.data.preparing.executors import Here, Processes
from shear_lit.data.preparing.prepare import prepare
from tests.data.preparing.test_prepare_again import texts_of
from tests.data.text.contamination.test_cutting import OTHER, QUESTION, filler
from tests.trees import tree


def document(number, planted=""):
    return f"{filler(500, seed=2 * number)} {planted} {filler(500, seed=2 * number + 1)}"


@pytest.fixture
def questions(tmp_path):
    """A file with two questions."""
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in (QUESTION, OTHER)))
    return str(path)


@pytest.fixture
def asked(questions):
    return DecontaminationSettings(files=[questions])


TEXTS = [document(n, QUESTION if n in (3, 40) else OTHER if n == 70 else "") for n in range(100)]


def test_what_is_planted_is_cut_out_and_counted_by_task_and_domain(
    settings, write_jsonl, asked, tokenizer_directory
):
    domains = {"a": write_jsonl("a.jsonl", TEXTS[:50]), "b": write_jsonl("b.jsonl", [*TEXTS[50:], "short"])}
    options = settings(domains, decontaminate=asked)
    manifest = prepare(options)
    found = manifest.decontamination
    assert found is not None and manifest == read_manifest(options.output)
    (task,) = found.tasks
    assert (task.name, task.examples, task.too_short, task.words) == (asked.files[0], 2, 0, 13)
    assert {name: (one.documents, one.dropped, one.pieces) for name, one in found.domains.items()} == {
        "a": (2, 0, 4),
        "b": (1, 0, 2),
    }
    assert found.domains["a"].tasks == {task.name: 2}
    first = found.domains["a"].examples[0]
    assert first.place.endswith("a.jsonl:4") and first.text in QUESTION and first.task == task.name
    assert manifest.domains["a"].documents == 52
    page = (Path(options.output) / PAGE).read_text()
    assert "Text of evaluation tasks" in page and first.text in page
    pieces = [
        text.replace(" ", "").replace("Ġ", " ").strip()
        for domain in (0, 1)
        for split in ("prune", "pretrain", "validation")
        for text in texts_of(options.output, tokenizer_directory, split, domain)
    ]
    assert not any(part in text for text in pieces for part in ("bridges", "captain"))
    assert TEXTS[3][:301].strip() in pieces and TEXTS[0].strip() in pieces


class Backwards:
    """Does tasks from the last to the first."""

    def run(self, do, tasks):
        for task in reversed(list(tasks)):
            yield task, do(task)


WHO = [Here(), Backwards()] + (
    [Processes(2), Processes(4)] if os.environ.get("SHEAR_LIT_CORPUS") == "all" else []
)


def test_output_does_not_depend_on_who_does_it(settings, write_jsonl, questions, tmp_path):
    texts = [*TEXTS, *(document(100 + n, QUESTION if n % 2 else "") for n in range(20))]
    file, asked = write_jsonl("a.jsonl", texts), DecontaminationSettings(files=[questions])
    trees = []
    for number, who in enumerate(WHO):
        output = tmp_path / f"out-{number}"
        options = settings({"a": file}, decontaminate=asked, unit_bytes=9000, output=str(output))
        assert prepare(options, who).decontamination.ignored > 0
        trees.append(tree(output))
    assert all(one == trees[0] for one in trees)


@pytest.mark.parametrize(("most", "documents"), [(9, 2), (10, 12), (0, 12)])
def test_what_more_documents_have_is_not_cut_out(settings, write_jsonl, questions, most, documents):
    texts = [document(n, OTHER if n < 10 else QUESTION if n < 12 else "") for n in range(100)]
    texts += [texts[0].upper()]  # the same document again is no other one
    asked = DecontaminationSettings(files=[questions], most_documents=most)
    manifest = prepare(settings({"a": write_jsonl("a.jsonl", texts)}, decontaminate=asked))
    found = manifest.decontamination
    assert found.domains["a"].documents == documents + (documents == 12)
    assert found.ignored == (found.tasks[0].grams - len(QUESTION.split()) + 12 if most == 9 else 0)


def test_counting_goes_on_where_files_are_added(settings, write_jsonl, questions):
    asked = DecontaminationSettings(files=[questions], most_documents=2)
    one = write_jsonl("one.jsonl", [document(n, OTHER if n < 2 else "") for n in range(50)])
    two = write_jsonl("two.jsonl", [document(50 + n, OTHER if n < 1 else "") for n in range(50)])
    options = settings({"a": [one]}, decontaminate=asked)
    assert prepare(options).decontamination.domains["a"].documents == 2
    manifest = prepare(replace(options, domains={"a": [one, two]}))
    assert manifest.decontamination.domains["a"].documents == 2 and manifest.decontamination.ignored > 0


@pytest.mark.parametrize("change", ["other questions", "none", "other rule"])
def test_adding_with_other_questions_is_refused(settings, write_jsonl, asked, tmp_path, change):
    one, two = write_jsonl("one.jsonl", TEXTS[:50]), write_jsonl("two.jsonl", TEXTS[50:])
    options = settings({"a": [one]}, decontaminate=asked)
    prepare(options)
    other = tmp_path / "other.txt"
    other.write_text(OTHER)
    changed = {
        "other questions": DecontaminationSettings(files=[str(other)]),
        "none": DecontaminationSettings(),
        "other rule": replace(asked, most_documents=3),
    }[change]
    before = tree(options.output)
    with pytest.raises(DataError, match="can only be added in the same way") as raised:
        prepare(replace(options, domains={"a": [one, two]}, decontaminate=changed))
    assert raised.value.key == "decontaminate" and "\n" not in str(raised.value)
    assert tree(options.output) == before


def test_other_questions_make_other_spools(settings, write_jsonl, asked, tmp_path, monkeypatch):
    """A run that is stopped and begun again with other questions uses nothing of what it did."""
    options = settings({"a": write_jsonl("a.jsonl", TEXTS)}, decontaminate=asked, workers=1)
    module = "shear_lit.data.preparing.prepare.select_documents"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare(options)
    manifest = prepare(replace(options, decontaminate=DecontaminationSettings()))
    assert manifest.decontamination is None and manifest.domains["a"].documents == 100


def test_manifests_without_decontamination_can_be_read(settings, write_jsonl):
    options = settings({"a": write_jsonl("a.jsonl", TEXTS)})
    manifest = prepare(options)
    path = Path(options.output) / MANIFEST
    content = json.loads(path.read_text())
    del content["decontamination"]
    path.write_text(json.dumps(content))
    assert read_manifest(options.output) == manifest


def test_tokens_are_refused(settings, tmp_path, asked):
    (tmp_path / "tokens.bin").write_bytes(b"\1\0" * 500)
    with pytest.raises(DataError, match="holds tokens"):
        prepare(settings({"a": f"uint16:{tmp_path / 'tokens.bin'}"}, decontaminate=asked))


def test_questions_that_are_all_too_short_are_refused(settings, write_jsonl, tmp_path):
    (tmp_path / "q.txt").write_text("who is it")
    asked = DecontaminationSettings(files=[str(tmp_path / "q.txt")])
    with pytest.raises(DataError, match="no question has 8 words"):
        prepare(settings({"a": write_jsonl("a.jsonl", TEXTS)}, decontaminate=asked))


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(DataError, match="least_words"):
        DecontaminationSettings(least_words=14)
