"""Suites as data: the shipped ones resolve in the harness's own registry, and files of one's own run no code."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from shear_lit.evaluation.suites.errors import SuiteError
from shear_lit.evaluation.suites.measuring import Outcome
from shear_lit.evaluation.suites.published import published_table
from shear_lit.evaluation.suites.registry import resolve
from shear_lit.evaluation.suites.results import SuiteScores, check_results_folder
from shear_lit.evaluation.suites.suite import read_suite, shipped_suites
from tests.evaluation.suites.harness_folders import SUITES, partial_registry
from tests.evaluation.suites.questions import LINES

PAGE = Path(__file__).parents[3] / "docs" / "scores.md"


@pytest.fixture(autouse=True)
def part_of_the_registry(monkeypatch):
    """The harness's own files, of the folders that are needed; ``make scores`` looks through all of them."""
    if find_spec("lm_eval") is not None:
        part = partial_registry()
        monkeypatch.setattr("shear_lit.evaluation.suites.registry.registry", lambda: part)


@pytest.mark.parametrize("name", SUITES)
def test_shipped_suite_resolves_in_the_registry_of_the_harness_and_stands_on_the_page(name):
    pytest.importorskip("lm_eval", reason="the harness has the registry: pip install shear-lit[eval]")
    page = PAGE.read_text()
    for each in resolve(read_suite(name)):
        assert each.problem == ""
        asked = each.task.asked
        assert (each.shots, each.metric, float(each.version)) == (asked.shots, asked.metric, asked.version)
        row = f"| {asked.task} | {each.shots} | {each.metric} | {asked.filter} | {each.version} |"
        assert row in page
        assert asked.differs in page
    assert {each.leaves for each in resolve(read_suite(name)) if each.is_group} != set()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"task": "scq"}, "did you mean sciq"),
        ({"task": "sciq", "version": 2.0}, "has version 1.0, and the suite was written for 2.0"),
        ({"task": "sciq", "metric": "f1"}, "its metrics are acc, acc_norm"),
        ({"task": "gsm8k", "metric": "exact_match"}, "its filters are strict-match, flexible-extract"),
        ({"task": "truthfulqa_mc2", "shots": 5}, "always asked without examples"),
    ],
)
def test_task_that_is_not_the_one_asked_for_is_named(tmp_path, entry, words):
    pytest.importorskip("lm_eval", reason="the harness has the registry: pip install shear-lit[eval]")
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump({"suite": "mine", "tasks": [entry]}))
    (found,) = resolve(read_suite(str(file)))
    assert words in found.problem


def test_figure_of_a_group_is_the_harness_own_or_the_plain_mean():
    """Two tasks of 10 and 30 questions: weighted as the harness weighs, and not."""
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

    from shear_lit.evaluation.suites.registry import Resolved

    (task,) = (each for each in read_suite("sheared-llama").tasks if each.name == "mmlu")
    numbers = {"a": (0.2, 0.05, 10), "b": (0.6, 0.02, 30)}
    results = {
        leaf: {"results": {leaf: {"acc,none": value, "acc_stderr,none": error, "sample_len": size}}}
        for leaf, (value, error, size) in numbers.items()
    }
    for by_size in (True, False):
        resolved = Resolved(task=task, leaves=("a", "b"), metric="acc", by_size=by_size)
        found = Outcome(resolved=resolved, results=results)
        assert found.value == pytest.approx(aggregate_subtask_metrics([0.2, 0.6], [10, 30], by_size))
        assert found.value == pytest.approx(0.5 if by_size else 0.4) and found.questions == 40
    assert Outcome(resolved=Resolved(task=task, leaves=("a", "b"), metric="acc"), results=results).stderr == (
        pytest.approx(pooled_sample_stderr([0.05, 0.02], [10, 30]))
    )


def test_average_is_the_mean_of_the_papers_eleven():
    """The 1.3B's published figures give its published average."""
    for name, average in (("sheared-llama", 51.0), ("open-llm-leaderboard-v1", None)):
        table, suite = published_table(name), read_suite(name)
        row = next(row for row in table.rows if row.model == "Sheared-LLaMA-1.3B")
        assert set(suite.average) == set(row.tasks)
        if average is not None:
            assert row.average == average == round(sum(row.tasks.values()) / 11, 1)


def test_shipped_suites_are_named_after_their_files():
    for name, path in shipped_suites().items():
        assert yaml.safe_load(path.read_text())["suite"] == name


# Files of one's own


HARNESS = {
    "task": "mine",
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "choices.jsonl"}},
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "answer",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": "acc"}],
}


def refusal(folder, content, words):
    file = folder / "bad.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(SuiteError) as found:
        read_suite(str(file))
    said = str(found.value)
    assert words in said and "\n" not in said and said.startswith("suite"), said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"process_docs": "x.y"}, "process_docs: code, prompts and files from elsewhere"),
        ({"class": "x.Task"}, "class: code"),
        ({"include": "other.yaml"}, "include: code"),
        ({"unsafe_code": True}, "unsafe_code: code"),
        ({"custom_dataset": "x"}, "custom_dataset: code"),
        ({"dataset_path": "someone/data"}, "dataset_path='someone/data'"),
        (
            {"dataset_kwargs": {"data_files": {"test": "https://example.org/a.jsonl"}}},
            "no file on this machine",
        ),
        ({"dataset_kwargs": {"data_files": {"test": "*.jsonl"}}}, "no file on this machine"),
        ({"dataset_kwargs": {"trust_remote_code": True, "data_files": {"test": "a"}}}, "dataset_path='json'"),
        ({"metric_list": [{"metric": "someone/metric"}]}, "none of the harness's own"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "metric of the harness's own"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "custom"}]}]}, "harness's own filters"),
        ({"output_type": "anything"}, "output_type: it is 'anything'"),
        ({"num_fewshot": -1}, "num_fewshot: it is -1"),
        ({"doc_to_txt": "x"}, "Did you mean doc_to_text"),
        ({"task": "../mine"}, "a name without slashes"),
    ],
)
def test_yaml_of_the_harness_that_could_run_or_fetch_something_is_refused(asked, tmp_path, changes, words):
    import shutil

    shutil.copy(asked / "choices.jsonl", tmp_path)
    assert read_suite(str(write(tmp_path, HARNESS))).tasks[0].local.name == "mine"
    refusal(tmp_path, HARNESS | changes, words)


def write(folder, content):
    file = folder / "good.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("task: a\nprocess_docs: !function utils.run\n", "code of a task is never run (!function)"),
        ("task: a\nkind: !!python/object/apply:os.system [ls]\n", "no YAML in plain types"),
        ("task: a\nkind: essay\ndata: choices.jsonl\n", "one of multiple_choice, cloze, generation"),
        ("task: a\nkind: cloze\ndata: nowhere.jsonl\n", "no file on this machine"),
        ("task: a\nkind: cloze\ndata: choices.jsonl\n", "question 1: `text` of at least two words"),
        ("task: a\nkind: cloze\n", "the key data"),
        ("task: a\nkind: cloze\ndata: texts.jsonl\npattern: x\n", "pattern has no effect"),
        ("task: a\nkind: cloze\ndata: texts.jsonl\nmetric: f1\n", "the task has acc, perplexity"),
        ("task: a\nkind: cloze\ndata: texts.csv\n", "no file on this machine"),
        ("task: a\nkind: cloze\ndata: texts.jsonl\nshot: 1\n", "shot"),
        ("suite: a\ntasks: []\n", "a list of tasks is expected"),
        ("suite: a\ntasks: [sciq, sciq]\n", "'sciq' is there twice"),
        ("suite: a\ntasks: [sciq]\naverage: [piqa]\n", "`average` names 'piqa'"),
        ("suite: a\nnumber: 3\ntasks: [sciq]\n", "number"),
        ("- a\n", "no keys with values"),
    ],
)
def test_file_of_a_suite_that_is_wrong_gets_one_line(asked, tmp_path, lines, words):
    import shutil

    for name in ("choices.jsonl", "texts.jsonl"):
        shutil.copy(asked / name, tmp_path)
    refusal(tmp_path, lines, words)


def test_line_separators_inside_a_question_end_no_row(tmp_path):
    row = {"text": "one two\u2028three\x85four"}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\r\n", newline="")
    (tmp_path / "task.yaml").write_text("task: a\nkind: cloze\ndata: texts.jsonl\n")
    assert read_suite(str(tmp_path / "task.yaml")).tasks[0].name == "a"


def test_answers_are_everywhere_of_one_kind(tmp_path):
    for answers, more, words in (
        (["a", ["b"]], "", "question 2: `answer` is text, or everywhere a list of texts"),
        ([["a"], "b"], "", "question 2: `answer` is text, or everywhere a list of texts"),
        ([["a"], []], "", "question 2"),
        ([["a"], ["b"]], "pattern: x\n", "pattern is for answers that are one text"),
    ):
        rows = [{"question": "q", "answer": answer} for answer in answers]
        (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (tmp_path / "task.yaml").write_text(f"task: a\nkind: generation\ndata: data.jsonl\n{more}")
        with pytest.raises(SuiteError, match=re.escape(words)):
            read_suite(str(tmp_path / "task.yaml"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "counted from 0"),
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "a letter from A"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "at least two texts"),
        ({"question": "q", "choices": ["a", "b"]}, "`question` and `answer`"),
        (["q"], "no group of keys"),
    ],
)
def test_question_that_is_wrong_is_named_by_its_number(tmp_path, row, words):
    good = {"question": "q", "choices": ["a", "b"], "answer": 0}
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    file = tmp_path / "task.yaml"
    file.write_text("task: a\nkind: multiple_choice\ndata: data.jsonl\n")
    with pytest.raises(SuiteError, match=rf"question 2: .*{re.escape(words)}"):
        read_suite(str(file))


def test_template_reaches_nothing_of_python_behind_the_questions(asked, tmp_path):
    pytest.importorskip("lm_eval", reason="the harness fills templates: pip install shear-lit[eval]")
    import lm_eval.utils as harness
    from jinja2.exceptions import SecurityError

    from shear_lit.evaluation.suites.asking import sandboxed_templates

    bad = "{{ question.__class__.__mro__[1].__subclasses__() }}"
    assert "class" in harness.apply_template(bad, {"question": "q"})
    with sandboxed_templates(), pytest.raises(SecurityError):
        harness.apply_template(bad, {"question": "q"})
    assert "class" in harness.apply_template(bad, {"question": "q"})


# Results


def scores(**changes):
    suite = read_suite("sheared-llama")
    return SuiteScores(
        **{
            **dict(suite=suite, model="m", fingerprint="f", dtype="float32", parameters=10, questions=None),
            **dict(outcomes=(), published=published_table("sheared-llama")),
            **changes,
        }
    )


def outcome(task, *, value=0.5, problem=""):
    from shear_lit.evaluation.suites.registry import Resolved

    resolved = Resolved(task=task, leaves=(task.name,), metric=task.asked.metric, shots=1, version="1.0")
    figures = {resolved.key: value, f"{resolved.metric}_stderr,{task.asked.filter}": 0.03, "sample_len": 7}
    return Outcome(
        resolved=resolved,
        results={} if problem else {task.name: {"results": {task.name: figures}}},
        problem=problem,
    )


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.setattr("shear_lit.evaluation.suites.results.version", lambda name: "0")


def test_table_has_every_task_the_average_with_its_error_and_published_rows_with_their_source(figures):
    suite = read_suite("sheared-llama")
    row = next(row for row in published_table("sheared-llama").rows if row.model == "Sheared-LLaMA-1.3B")
    found = scores(outcomes=tuple(outcome(t, value=row.tasks.get(t.name, 1) / 100) for t in suite.tasks))
    text = str(found)
    assert found.exit_code == 0 and round(100 * found.average, 1) == 51.0
    assert found.average_stderr == pytest.approx(0.03 / 11**0.5)
    assert "| average " in text and "51.05 ± 0.90" in text and "Sheared-LLaMA-1.3B (published)" in text
    assert published_table("sheared-llama").source in text and suite.source in text


def test_missing_task_makes_the_average_undefined_and_the_exit_code_partial(figures):
    suite = read_suite("sheared-llama")
    outcomes = [outcome(task) for task in suite.tasks]
    outcomes[2] = outcome(suite.tasks[2], problem="its questions cannot be reached (no network)")
    found = scores(outcomes=tuple(outcomes))
    assert found.exit_code == 3 and found.average != found.average
    assert "PARTIAL: 1 of 14" in str(found) and "winogrande: its questions cannot be reached" in str(found)


def test_folder_with_the_results_of_another_model_is_refused(tmp_path):
    (tmp_path / "results.json").write_text(
        json.dumps({"model_name": "other", "shear_lit": {"model_fingerprint": "g"}})
    )
    with pytest.raises(SuiteError, match="holds the results of another model \\('other'\\)"):
        check_results_folder(tmp_path, "f")
    check_results_folder(tmp_path, "g")


def test_three_lines_are_a_task(asked):
    found = read_suite(str(asked / "suite.yaml"))
    assert [task.name for task in found.tasks] == list(LINES)
    assert found.tasks[1].asked.metric == "acc_norm" and found.tasks[1].local.shots == 2
