"""A suite is asked as the harness asks it by itself, on any number of processes, and nothing is asked twice."""

import copy
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import yaml

pytest.importorskip("lm_eval", reason="the harness asks the questions: pip install shear-lit[eval]")

from shear_lit.data.tokens.conversions import beside
from shear_lit.evaluation.suites import asking, measuring
from shear_lit.evaluation.suites.answering import SharedModel
from shear_lit.evaluation.suites.registry import resolve
from shear_lit.evaluation.suites.suite import read_suite
from shear_lit.models.huggingface import read_model
from tests.evaluation.suites.measure import measured
from tests.evaluation.suites.questions import LINES


@pytest.fixture(scope="module")
def alone(asked, model, tmp_path_factory):
    """All tasks, measured by one process."""
    return measured(asked / "suite.yaml", model, tmp_path_factory.mktemp("kept"))


@pytest.fixture
def directly(asked, model, tmp_path, monkeypatch):
    """What the harness finds by itself on the same directory, told of the tasks by YAML files."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    lm = HFLM(pretrained=model, device="cpu", batch_size=3)
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # takes seconds, and is no figure
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")

    def ask(name, *, shots):
        config = copy.deepcopy(dict(read_suite(str(asked / f"{name}.yaml")).tasks[0].local.config))
        config.pop("num_fewshot")
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        return evaluator.simple_evaluate(
            model=lm,
            tasks=[str(file)],
            num_fewshot=shots,
            bootstrap_iters=asking.BOOTSTRAPS,
            task_manager=manager,
        )

    return ask


def comparable(sample):
    """A sample without what one process makes tuples of and a file lists."""
    return json.loads(json.dumps(sample, default=str))


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


class Together:
    """Processes that are threads of this one: what each found is there when both have found it."""

    size = 2

    def __init__(self):
        self.parts, self.barrier, self.own = [None, None], threading.Barrier(2), threading.local()

    @property
    def rank(self):
        return self.own.rank

    @property
    def first(self):
        return self.rank == 0

    def gather(self, found):
        self.parts[self.rank] = found
        self.barrier.wait(60)
        everywhere = list(self.parts)
        self.barrier.wait(60)
        return everywhere


def requests_of(name, asked):
    """The harness's requests of a task."""
    (resolved,) = resolve(read_suite(str(asked / f"{name}.yaml")))
    task = asking.load_task(resolved, name)
    task.build_all_requests()
    return task.instances


@pytest.mark.parametrize("name", ["choices-shots", "letters", "pattern-shots"])
def test_two_that_share_the_requests_answer_each_once_as_one_does(asked, model, name):
    """Two processes of gloo are compared with one in ``make scores``; here two threads deal and gather alike."""
    network = read_model(model, dtype=torch.float32)
    requests, kind = requests_of(name, asked), "generate_until" if "pattern" in name else "loglikelihood"
    alone = SharedModel(network, beside(model), batch_size=2)
    together = Together()
    pair = [SharedModel(network, beside(model), batch_size=2, processes=together) for _ in range(2)]

    def answers(rank):
        together.own.rank = rank
        return getattr(pair[rank], kind)(requests, disable_tqdm=True)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(answers, range(2))
    assert first == second == getattr(alone, kind)(requests, disable_tqdm=True)
    counts = [each.answered for each in pair]
    assert sum(counts) == alone.answered == len(requests) and min(counts) > 0.2 * len(requests)


def test_batch_that_does_not_fit_is_halved(asked, model, monkeypatch):
    requests, tried = requests_of("letters", asked), []
    subject = SharedModel(read_model(model, dtype=torch.float32), beside(model), batch_size=8)
    expected, real = subject.loglikelihood(requests, disable_tqdm=True), subject._model_call

    def small(tokens, **options):
        tried.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("full")
        return real(tokens, **options)

    monkeypatch.setattr(subject, "_model_call", small)
    found = subject.loglikelihood(requests, disable_tqdm=True)
    assert tried[:3] == [8, 4, 2]
    assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], rel=1e-5)


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
    subject = measuring.Subject(name="m", fingerprint="f", dtype="float32", open=lambda: None)
    monkeypatch.setattr(
        measuring,
        "ask_task",
        lambda model, leaf, *_, **__: {"results": {leaf: {"sample_len": 1}}, "samples": {}},
    )
    resolved = resolve(read_suite(str(asked / "suite.yaml")))
    outcomes = measuring.measure_suite(resolved, subject, measuring.KeptResults(tmp_path), questions=1)
    assert [bool(each.problem) for each in outcomes] == [name == "choices" for name in LINES]
    assert "no route to the hub" in outcomes[0].problem


def test_time_left_follows_the_questions_that_are_left_not_the_rows(asked, tmp_path, monkeypatch, caplog):
    """Ten seconds a question; what was found before takes none and counts nowhere."""
    suite = resolve(read_suite(str(asked / "suite.yaml")))
    counts = {each.task.name: len(asking.load_task(each, each.task.name).eval_docs) for each in suite}
    assert len(set(counts.values())) > 1
    clock = [0.0]
    monkeypatch.setattr(measuring, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def ask(model, leaf, loaded, *, questions):
        clock[0] += 10 * counts[leaf]
        return {"results": {leaf: {"sample_len": counts[leaf]}}, "samples": {leaf: []}}

    monkeypatch.setattr(measuring, "ask_task", ask)
    subject = measuring.Subject(name="m", fingerprint="f", dtype="float32", open=lambda: None)
    kept = measuring.KeptResults(tmp_path)
    measuring.measure_suite(suite[1:2], subject, kept, questions=None)
    caplog.clear()
    with caplog.at_level("INFO"):
        measuring.measure_suite(suite, subject, kept, questions=None)
    names = list(counts)
    left = [
        10 * sum(counts[name] for name in names[place + 1 :] if name != names[1])
        for place in range(len(names))
    ]
    said = [
        record.getMessage().rpartition("; ")[2] for record in caplog.records if "questions)" in record.message
    ]
    assert said == [measuring._time(float(seconds)) for seconds in left]
    assert said[-1] == "about 0 s left"


def test_any_of_several_answers_counts_and_examples_show_the_first(asked, tmp_path):
    rows = [{"question": f"q{n}", "answer": [f"first {n}", f"Second {n}."]} for n in range(3)]
    (tmp_path / "open.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "open.yaml").write_text("task: open\nkind: generation\ndata: open.jsonl\nshots: 1\n")
    (resolved,) = resolve(read_suite(str(tmp_path / "open.yaml")))
    task = asking.load_task(resolved, "open")
    for answer, counts in (("first 0", 1), ("second 0", 1), ("first 1", 0)):
        assert task.process_results(task.eval_docs[0], [answer])["exact_match"] == counts
    task.build_all_requests()
    prompt = task.instances[0].args[0]
    assert prompt.endswith("Question: q0\nAnswer:") and "Answer: first " in prompt and "[" not in prompt
