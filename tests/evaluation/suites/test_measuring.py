"""A suite is asked as the harness asks it by itself, on any number of processes, and nothing is asked twice."""

import copy

import pytest
import yaml

from shear_lit.evaluation.suites import asking, measuring
from shear_lit.evaluation.suites.suite import read_suite
from tests.evaluation.suites.measure import measured
from tests.evaluation.suites.questions import LINES
from tests.training.forks import run


@pytest.fixture(scope="module")
def alone(asked, model, tmp_path_factory):
    """All tasks, measured by one process."""
    return measured(asked / "suite.yaml", model, tmp_path_factory.mktemp("kept"))


@pytest.fixture
def directly(asked, model, tmp_path, monkeypatch):
    """What the harness finds by itself on the same directory, told of the tasks by YAML files."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, device="cpu", batch_size=3)
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # takes seconds, and is no figure
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")

    def ask(name, *, shots):
        config = copy.deepcopy(dict(read_suite(str(asked / f"{name}.yaml")).tasks[0].local.config))
        config.pop("num_fewshot")
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        return evaluator.simple_evaluate(
            model=lm, tasks=[str(file)], num_fewshot=shots, bootstrap_iters=asking.BOOTSTRAPS
        )

    return ask


def comparable(sample):
    """A sample without what one process makes tuples of and a file lists."""
    return yaml.safe_load(yaml.safe_dump(asking.json.loads(asking.json.dumps(sample, default=str))))


SHOTS = {
    0: ["choices", "letters", "last-word", "answers"],
    1: ["last-word-shots"],
    2: ["choices-shots", "pattern-shots"],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
@pytest.mark.parametrize("shots", SHOTS)
def test_figures_and_samples_are_those_of_the_harness_by_itself(alone, directly, shots):
    found, _ = alone
    for name in SHOTS[shots]:
        expected = directly(name, shots=shots)
        assert found[name][name]["results"][name] == expected["results"][name]
        assert found[name][name]["samples"][name] == comparable(expected["samples"][name])
        assert found[name][name]["n-shot"][name] == shots


def test_comparison_with_the_harness_sees_other_examples(alone, directly):
    """The twin: one shot instead of two gives other prompts."""
    found, _ = alone
    expected = directly("choices-shots", shots=1)
    ours = found["choices-shots"]["choices-shots"]["samples"]["choices-shots"]
    assert ours != comparable(expected["samples"]["choices-shots"])


def test_two_processes_find_what_one_finds_and_answer_each_request_once(asked, model, alone, tmp_path):
    datasets = str(tmp_path / "datasets")
    options = dict(
        suite=str(asked / "suite.yaml"), model=model, kept=str(tmp_path / "kept"), datasets=datasets
    )
    (first, answered), (second, others) = run(measured, tmp_path / "log", processes=2, **options)
    found, requests = alone
    assert first == second == found
    assert answered + others == requests and min(answered, others) > 0.2 * requests


@pytest.mark.parametrize("before", [1, 4])
def test_suite_that_was_stopped_goes_on_and_measures_nothing_twice(
    asked, model, alone, tmp_path, monkeypatch, before
):
    tasks = list(LINES)
    real = measuring.ask_task

    def stop_after(lm, leaf, loaded, *, questions):
        if leaf == tasks[before]:
            raise KeyboardInterrupt
        return real(lm, leaf, loaded, questions=questions)

    monkeypatch.setattr(measuring, "ask_task", stop_after)
    with pytest.raises(KeyboardInterrupt):
        measured(asked / "suite.yaml", model, tmp_path)
    seen = []

    def remember(lm, leaf, loaded, *, questions):
        seen.append(leaf)
        return real(lm, leaf, loaded, questions=questions)

    monkeypatch.setattr(measuring, "ask_task", remember)
    found, _ = measured(asked / "suite.yaml", model, tmp_path)
    assert seen == tasks[before:] and found == alone[0]


def test_damaged_and_foreign_results_are_measured_again(asked, model, tmp_path, caplog):
    task = asked / "last-word.yaml"
    found, requests = measured(task, model, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    assert measured(task, model, tmp_path) == (found, 0)
    for damaged in (file.read_text()[:-40], file.read_text().replace('"model": "', '"model": "0')):
        file.write_text(damaged)
        assert measured(task, model, tmp_path) == (found, requests)
    assert "measured again" in caplog.text


@pytest.mark.parametrize("changed", ["question", "model", "questions", "shots"])
def test_what_changed_is_measured_anew(asked, model, tmp_path, changed):
    import shutil

    folder = tmp_path / "mine"
    shutil.copytree(asked, folder)
    subject = tmp_path / "model"
    shutil.copytree(model, subject)
    task = folder / "last-word.yaml"
    measured(task, subject, tmp_path / "kept")
    if changed == "question":
        file = folder / "texts.jsonl"
        file.write_text(file.read_text().replace("stone", "storm"))
    elif changed == "shots":
        task.write_text(task.read_text() + "shots: 1\n")
    elif changed == "model":
        (subject / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    _, answered = measured(task, subject, tmp_path / "kept", questions=4 if changed == "questions" else None)
    assert answered > 0


def test_task_whose_questions_cannot_be_reached_is_named_and_the_rest_is_asked(
    asked, model, tmp_path, monkeypatch
):
    real = measuring.load_task

    def unreachable(resolved, leaf):
        if leaf == "choices":
            raise ConnectionError("no route\nto the hub")
        return real(resolved, leaf)

    monkeypatch.setattr(measuring, "load_task", unreachable)
    monkeypatch.setattr(measuring.Outcome, "stderr", 0.0)
    subject = measuring.Subject(name="m", fingerprint="f", dtype="float32", open=lambda: None)
    monkeypatch.setattr(measuring, "ask_task", lambda *_, **__: {"results": {}, "samples": {}})
    resolved = measuring_resolved(asked)
    outcomes = measuring.measure_suite(resolved, subject, measuring.KeptResults(tmp_path), questions=1)
    assert [bool(each.problem) for each in outcomes] == [name == "choices" for name in LINES]
    assert "no route to the hub" in outcomes[0].problem


def measuring_resolved(asked):
    from shear_lit.evaluation.suites.registry import resolve

    return resolve(read_suite(str(asked / "suite.yaml")))
