"""Models in one table: figures are those of each command, nothing is measured twice, and mistakes are one line."""

import json
import math
import re
import shutil
import sys

import pytest
import yaml

from shear_lit import cli
from shear_lit.commands import comparing
from shear_lit.commands.compare import compare
from shear_lit.commands.comparing import CompareError
from shear_lit.commands.evaluate import evaluate
from shear_lit.mistakes import Mistake
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
    rows = found.differences()["other", "gqa-tied"]
    assert set(rows) == {"loss, code", "loss, law", "loss, wiki", "loss, mean"}
    first, second = (model.losses["wiki"] for model in found.models)
    assert rows["loss, wiki"].value == pytest.approx(second.loss - first.loss)
    text = (tmp_path / "out" / "compare.md").read_text()
    assert text == f"{found}\n" and "## Bits per byte" in text and "95 % intervals" in text
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
    rows = found.differences()["second", "first"]
    assert set(rows) == {"task, choices", "task, last-word", "tasks, average"}
    assert rows["tasks, average"].value == pytest.approx(second.average - first.average)
    for mine, theirs in zip(first.outcomes, second.outcomes, strict=True):
        assert rows[f"task, {mine.resolved.task.name}"].value == pytest.approx(theirs.value - mine.value)
        assert mine.question_values.mean() == pytest.approx(mine.value)
    assert found.retention(found.models[1]) == pytest.approx(second.average / first.average, nan_ok=True)
    assert "retention" in str(found)


def test_speeds_are_measured_at_one_and_eight(toy, other, tmp_path):
    found = compare([str(toy.source()), other], cache=str(tmp_path))
    for model in found.models:
        assert model.speeds.peak_bytes is None  # of this process, nobody counts what a model takes
        speeds = model.speeds.tokens_per_second
        assert set(speeds) == {f"{kind} x{batch}" for kind in ("prompt", "generation") for batch in (1, 8)}
        assert all(speed > 0 for speed in speeds.values())


def test_models_without_a_key_are_taken_and_mistakes_are_one_line(toy, other, tmp_path, capfd):
    cli.main(["compare", str(toy.source()), other, "--speed=false", f"--cache={tmp_path}"])
    assert "| gqa-tied |  other |" in capfd.readouterr().out
    (tmp_path / "run").mkdir()
    checkpoint = tmp_path / "trained" / "checkpoints" / "step=000007.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    exporting = f"Type: shear-lit export --checkpoint {checkpoint} --output {tmp_path / 'trained' / 'hf'}"
    for models, words in (
        ([other, str(tmp_path / "trained")], re.escape(exporting)),
        ([other], "at least two different models"),
        ([other, other], "at least two different models"),
        ([other, str(tmp_path / "run")], "shear-lit export"),
    ):
        with pytest.raises(CompareError, match=words) as found:
            compare(models)
        assert "\n" not in str(found.value)
    for options, words in (
        ({"against": "nobody"}, "none of the models: gqa-tied, other, or all"),
        ({"data": [str(toy.data), str(toy.root / "wiki.jsonl")]}, "some are files of text and some are none"),
    ):
        with pytest.raises(CompareError, match=words):
            compare([str(toy.source()), other], **options)


def test_models_are_compared_with_the_one_that_is_named_or_each_with_each(toy, other, tmp_path):
    models = [str(toy.source()), other, str(toy.source("mha-untied"))]
    options = dict(data=str(toy.data), sequences_per_domain=2, cache=str(tmp_path), speed=False)
    named = compare(models, against=other, **options)
    assert set(named.differences()) == {("gqa-tied", "other"), ("mha-untied", "other")}
    assert named.base.name == "other"
    whole = compare(models, against="all", **options)
    assert set(whole.differences()) == {
        ("other", "gqa-tied"),
        ("mha-untied", "gqa-tied"),
        ("mha-untied", "other"),
    }
    forth, back = (
        whole.differences()["other", "gqa-tied"],
        named.differences()["gqa-tied", "other"],
    )
    assert back["loss, mean"].value == pytest.approx(-forth["loss, mean"].value)
    rows = json.loads(whole.to_json())["differences"]
    assert {(row["model"], row["against"]) for row in rows} == set(whole.differences())


def test_terminal_shows_the_figures_of_the_page(toy, other, tmp_path, monkeypatch, capsys):
    found = compare([str(toy.source()), other], cache=str(tmp_path), speed=False)
    drawn = found.on_terminal(width=100)
    for row in found.tables()[0].rows:
        assert any(all(cell in line for cell in row) for line in drawn.splitlines()), row
    assert "|" not in drawn and max(map(len, drawn.splitlines())) <= 100
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    cli.main(["compare", str(toy.source()), other, "--speed=false", f"--cache={tmp_path}"])
    assert "KV cache" in (said := capsys.readouterr().out) and "|" not in said


def test_memory_and_cost_are_those_counted_by_hand(toy, tmp_path):
    """Three blocks of two KV heads of four channels in float32; two runs, of which a later model does not know all."""
    made, older = tmp_path / "made", tmp_path / "older"
    source = {"step": 5, "tokens": 1000, "device_seconds": 1800.0, "source_recipe": None}
    for place, recipe in (
        (made, {"step": 7, "tokens": 400, "device_seconds": 5400.0, "source_recipe": source}),
        (older, {"step": 7, "tokens": 400, "source_recipe": source}),
    ):
        shutil.copytree(toy.source(), place)
        (place / "recipe.json").write_text(json.dumps(recipe))
    found = compare([str(made), str(older)], cache=str(tmp_path / "kept"), speed=False)
    first, second = found.models
    assert first.size.cache_bytes == 3 * 2 * 2 * 4 * 2048 * 4
    assert first.size.weight_bytes == 4 * first.size.parameters
    assert (first.tokens, first.device_seconds, second.tokens) == (1400, 7200.0, 1400)
    assert re.search(r"trained here for, device-hours \| +2\.00 \| unknown", str(found))


def test_keys_and_values_of_sliding_blocks_are_those_of_the_window():
    from types import SimpleNamespace

    from shear_lit.evaluation.model_size import cached_numbers

    config = SimpleNamespace(
        num_attention_heads=4,
        hidden_size=32,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=100,
    )
    assert cached_numbers(config) == 2 * (100 + 2048) * 4 * 8


def test_models_of_two_tokenizers_are_compared_on_the_same_documents(toy, tmp_path):
    """Bits per byte are the losses over the bytes of the text itself, and differences are by document."""
    lines = (toy.root / "wiki.jsonl").read_text().splitlines()[:9]
    texts = [" ".join(json.loads(line)["text"].split()[:8]) for line in lines]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "more.jsonl").write_text('{"text": "ZQ ZQ ZQ"}\n' * 50)
    write_source(tmp_path / "model", trained_tokenizer([str(tmp_path / "more.jsonl")]))
    found = compare(
        [str(toy.source()), str(tmp_path / "model")],
        data=str(tmp_path / "notes.jsonl"),
        cache=str(tmp_path / "kept"),
        speed=False,
    )
    first, second = (model.losses["notes"] for model in found.models)
    assert first.documents == second.documents == 9 and first.tokens != second.tokens
    nats = first.loss * first.tokens / sum(len(text.encode()) for text in texts)
    assert first.bits_per_byte == pytest.approx(nats / math.log(2))
    (rows,) = found.differences().values()
    assert set(rows) == {"bits per byte, notes", "bits per byte, mean"}
    difference = rows["bits per byte, notes"]
    assert difference.value == pytest.approx(second.bits_per_byte - first.bits_per_byte)
    assert difference.low < difference.value < difference.high


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": ""}\n', "no document that can be used"),
        (json.dumps({"text": "w " * 400}) + "\n", "takes at most 64"),
    ],
)
def test_text_that_cannot_be_used_is_refused_before_any_weight_is_read(
    toy, other, tmp_path, monkeypatch, content, words
):
    monkeypatch.setattr(comparing, "read_model", lambda *_, **__: pytest.fail("read"))
    (tmp_path / "notes.jsonl").write_text(content)
    with pytest.raises(Mistake, match=words):
        compare([str(toy.source()), other], data=str(tmp_path / "notes.jsonl"), speed=False)
