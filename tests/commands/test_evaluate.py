"""Losses of a Hugging Face directory on prepared data, printed and written; and the references made of them."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from shear_lit import cli
from shear_lit.commands import measuring as command
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.reference import measure
from shear_lit.data.errors import DataError
from shear_lit.data.order.permutation import sample
from shear_lit.data.order.references import read_references
from shear_lit.data.preparing.prepare import PrepareSettings, prepare
from shear_lit.data.preparing.settings import SplitShares
from shear_lit.data.serving.store import SequenceStore
from shear_lit.disk.writing import OutputError
from shear_lit.evaluation.prepared import EvaluationError
from shear_lit.models.text_check import TextError
from tests import tiny
from tests.evaluation.suites.questions import write_questions


def prepared(source, directory, *, sequence_length=12):
    """Text in two domains, prepared with the source's own tokenizer."""
    generator = random.Random(3)
    domains = {}
    for name in ("wiki", "code"):
        lines = [" ".join(f"w{generator.randrange(40)}" for _ in range(30)) for _ in range(60)]
        path = directory.with_name(f"{name}.jsonl")
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        domains[name] = str(path)
    settings = PrepareSettings(
        domains=domains,
        tokenizer=source,
        output=str(directory),
        sequence_length=sequence_length,
        append_eos=False,
        shares=SplitShares(prune=0.2, pretrain=0.2, validation=0.6),
    )
    prepare(settings)
    return str(directory)


@pytest.fixture
def source(tmp_path):
    tiny.write_source(tmp_path / "source", tiny.config())
    return str(tmp_path / "source")


@pytest.fixture
def data(source, tmp_path):
    return prepared(source, tmp_path / "data")


def test_evaluate_gives_the_losses_of_every_domain(source, data, tmp_path):
    result = evaluate(source, data, output=str(tmp_path / "deep" / "losses.json"))
    assert set(result.losses) == {"wiki", "code"}
    assert all(0 < loss < 10 for loss in result.losses.values())
    text = str(result)
    assert f"{result.losses['wiki']:.4f}" in text and "mean" in text and f"{result.parameters:,}" in text
    stored = json.loads((tmp_path / "deep" / "losses.json").read_text())
    assert stored["losses"] == result.losses


def test_losses_are_those_of_a_sample_of_the_validation_sequences(source, data):
    result = evaluate(source, data, sequences_per_domain=3, micro_batch=2)
    store = SequenceStore(data, "validation")
    network = AutoModelForCausalLM.from_pretrained(source)
    for index, (domain, chunks) in enumerate(store.chunk_sizes.items()):
        tokens = store.read([(index, sequence) for sequence in sample(domain, chunks, 3).tolist()])["tokens"]
        with torch.inference_mode():
            stock = network(input_ids=tokens, labels=tokens).loss
        assert result.losses[domain] == pytest.approx(float(stock), abs=1e-5)


def test_data_of_another_tokenizer_is_refused_before_weights_are_read(source, data, monkeypatch):
    monkeypatch.setattr(command, "read_model", lambda *_, **__: pytest.fail("weights were read"))
    path = Path(source) / "tokenizer.json"
    path.write_text(path.read_text().replace('"w3"', '"other"'))
    with pytest.raises(DataError, match="tokenised by"):
        evaluate(source, data)


def test_unknown_tokens_are_refused(source, data):
    change_config(source, vocab_size=tiny.VOCABULARY - 5)
    weights = load_file(Path(source) / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:-5].clone()
    save_file(weights, Path(source) / "model.safetensors", {"format": "pt"})
    with pytest.raises(TextError, match=r"^data\.directory=.*knows 45"):
        evaluate(source, data)


def test_sequences_longer_than_the_model_allows_are_refused(source, data):
    change_config(source, max_position_embeddings=11)
    with pytest.raises(TextError, match="max_position_embeddings"):
        evaluate(source, data)


def change_config(source, **entries):
    path = Path(source) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_measured_references_are_the_evaluated_losses(source, data, tmp_path):
    output = tmp_path / "references.yaml"
    result = measure(source, data, str(output))
    stored, evaluated = read_references(output), evaluate(source, data)
    assert (stored.source, stored.tokenizer) == (source, evaluated.tokenizer)
    assert stored.losses == evaluated.losses
    assert str(output) in str(result)


def test_references_are_not_overwritten(source, data, tmp_path):
    output = tmp_path / "references.yaml"
    output.write_text("mine")
    with pytest.raises(OutputError, match="not overwritten"):
        measure(source, data, str(output))
    assert output.read_text() == "mine"


def test_undefined_loss_is_no_reference(source, data, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "measure_domain_losses", lambda *_: {"wiki": 1.0, "code": math.nan})
    with pytest.raises(EvaluationError, match="code is not finite"):
        measure(source, data, str(tmp_path / "references.yaml"))
    assert not (tmp_path / "references.yaml").exists()


def test_tokenizer_that_cannot_be_loaded_is_said_in_one_line(source, data):
    (Path(source) / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"^model\.source=.* has no tokenizer that can be loaded"):
        evaluate(str(source), str(data))


@pytest.mark.parametrize("flags", [["--config=mine.yaml"], ["--config", "mine.yaml"]])
def test_file_that_names_a_suite_asks_it(tmp_path, monkeypatch, capsys, flags):
    pytest.importorskip("lm_eval", reason="the harness asks the questions: pip install shear-lit[eval]")
    write_questions(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("suite: last-word.yaml\ndry_run: true\n")
    cli.main(["evaluate", *flags])
    assert "# last-word" in (said := capsys.readouterr().out) and "yes" in said


@pytest.mark.parametrize("content", ["suite: null\nmodel: m\ndata: d\n", "[", "- suite\n"])
def test_file_that_names_none_is_one_of_losses(tmp_path, monkeypatch, capsys, content):
    monkeypatch.setattr("shear_lit.commands.evaluate_suite.evaluate_suite", lambda **_: pytest.fail("asked"))
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", f"--config={tmp_path / 'mine.yaml'}"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
