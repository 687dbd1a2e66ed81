"""Models in one table: figures are those of each command, nothing is measured twice, and mistakes are one line."""

import json

import pytest
import yaml

from shear_lit import cli
from shear_lit.commands import comparing
from shear_lit.commands.compare import compare
from shear_lit.commands.comparing import CompareError
from shear_lit.commands.evaluate import evaluate
from tests.evaluation.suites.questions import write_model, write_questions
from tests.toy import trained_tokenizer, write_source


@pytest.fixture(scope="module")
def other(toy, tmp_path_factory):
    """A model of other weights with the toy's tokenizer."""
    from transformers import AutoTokenizer

    place = tmp_path_factory.mktemp("other") / "other"
    write_source(place, AutoTokenizer.from_pretrained(toy.source()), seed=5)
    return str(place)


def test_figures_are_those_of_evaluate_and_differences_have_intervals(toy, other, tmp_path, monkeypatch):
    options = dict(data=[str(toy.data)], sequences_per_domain=6, cache=str(tmp_path / "kept"), speed=False)
    found = compare([str(toy.source()), other], output=str(tmp_path / "out"), **options)
    for model in found.models:
        alone = evaluate(model.model, str(toy.data), sequences_per_domain=6)
        assert dict(model.losses) == dict(alone.figures)
        assert model.size.parameters == alone.parameters
    rows = found.differences()["other"]
    assert set(rows) == {"loss, code", "loss, law", "loss, wiki", "loss, mean"}
    first, second = (model.losses["wiki"] for model in found.models)
    assert rows["loss, wiki"].value == pytest.approx(second.loss - first.loss)
    text = (tmp_path / "out" / "compare.md").read_text()
    assert text == f"{found}\n" and "Bits per byte" in text and "95 % intervals" in text
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored["models"][1]["losses"]["wiki"]["loss"] == second.loss
    monkeypatch.setattr(comparing, "read_model", lambda *_, **__: pytest.fail("measured twice"))
    assert str(compare([str(toy.source()), other], **options)) == str(found)


def test_model_of_another_tokenizer_stands_on_its_own_text(toy, tmp_path):
    """Bits per byte stand beside each other; differences by document would be of other documents."""
    from shear_lit.data.preparing.prepare import PrepareSettings, prepare

    (tmp_path / "more.jsonl").write_text(
        (toy.root / "wiki.jsonl").read_text() * 2 + '{"text": "ZQ ZQ ZQ"}\n' * 50
    )
    write_source(tmp_path / "model", trained_tokenizer([str(tmp_path / "more.jsonl")]))
    domains = {name: str(toy.root / f"{name}.jsonl") for name in ("code", "law", "wiki")}
    prepare(
        PrepareSettings(
            domains=domains,
            tokenizer=str(tmp_path / "model"),
            output=str(tmp_path / "data"),
            sequence_length=24,
        )
    )
    found = compare(
        [str(toy.source()), str(tmp_path / "model")],
        data=[str(toy.data), str(tmp_path / "data")],
        sequences_per_domain=3,
        cache=str(tmp_path / "kept"),
        speed=False,
    )
    assert found.differences() == {}
    assert all(figures.bits_per_byte > 0 for model in found.models for figures in model.losses.values())


def test_tasks_stand_with_retention_and_paired_differences(tmp_path):
    pytest.importorskip("lm_eval", reason="the harness asks the questions: pip install shear-lit[eval]")
    write_questions(tmp_path)
    suite = {
        "suite": "mine",
        "average": ["choices", "last-word"],
        "tasks": ["choices.yaml", "last-word.yaml"],
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    models = [write_model(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    found = compare(models, suite=str(tmp_path / "suite.yaml"), cache=str(tmp_path / "kept"), speed=False)
    first, second = (model.scores for model in found.models)
    rows = found.differences()["second"]
    assert set(rows) == {"task, choices", "task, last-word", "tasks, average"}
    assert rows["tasks, average"].value == pytest.approx(second.average - first.average)
    for mine, theirs in zip(first.outcomes, second.outcomes, strict=True):
        assert rows[f"task, {mine.resolved.task.name}"].value == pytest.approx(theirs.value - mine.value)
        assert mine.question_values.mean() == pytest.approx(mine.value)
    assert found.retention(found.models[1]) == pytest.approx(second.average / first.average, nan_ok=True)
    assert "retention %" in str(found)


def test_speeds_are_measured_at_one_and_eight(toy, other, tmp_path):
    found = compare([str(toy.source()), other], cache=str(tmp_path))
    for model in found.models:
        assert set(model.speeds) == {
            f"{kind} x{batch}" for kind in ("prompt", "generation") for batch in (1, 8)
        }
        assert all(speed > 0 for speed in model.speeds.values())


def test_models_without_a_key_are_taken_and_mistakes_are_one_line(toy, other, tmp_path, capfd):
    cli.main(["compare", str(toy.source()), other, "--speed=false", f"--cache={tmp_path}"])
    assert "| other " in capfd.readouterr().out
    (tmp_path / "run").mkdir()
    for models, words in (
        ([other], "at least two different models"),
        ([other, other], "at least two different models"),
        ([other, str(tmp_path / "run")], "shear-lit export"),
    ):
        with pytest.raises(CompareError, match=words):
            compare(models)
