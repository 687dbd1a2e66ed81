"""Losses of a Hugging Face directory on prepared data, printed and written; and the references made of them."""

import json
import math
import sys
from dataclasses import asdict, dataclass
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml

from shear_lit.commands import evaluate as command
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.reference import COMMANDS, measure
from shear_lit.evaluation import prepared
from shear_lit.evaluation.prepared import EvaluationError
from tests import tiny


class Manifest(SimpleNamespace):
    def check_tokenizer(self, fingerprint, name):
        if fingerprint != self.tokenizer.fingerprint:
            raise ValueError(f"another tokenizer: {name}")


@pytest.fixture
def data(monkeypatch):
    """Prepared data in two domains, as the data room gives it."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(tiny.VOCABULARY, (4, 12), generator=generator)
    domain = torch.tensor([0, 0, 1, -1])
    manifest = Manifest(
        sequence_length=12, tokenizer=SimpleNamespace(vocabulary=tiny.VOCABULARY, fingerprint="abc")
    )
    batches = [{"tokens": tokens[:2], "domain": domain[:2]}, {"tokens": tokens[2:], "domain": domain[2:]}]
    monkeypatch.setattr(prepared, "_prepared", lambda *_: (manifest, ("wiki", "code"), batches))
    monkeypatch.setattr(prepared, "_tokenizer_fingerprint", lambda _: "abc")
    return manifest


@pytest.fixture
def source(tmp_path):
    tiny.write_source(tmp_path / "source", tiny.config())
    return str(tmp_path / "source")


@pytest.fixture
def written(monkeypatch):
    """A stand-in for the data room's writer of references."""

    @dataclass
    class References:
        source: str
        tokenizer: str
        losses: dict

    def write_references(path, references):
        path.write_text(yaml.safe_dump({"format": 1, **asdict(references)}))

    stand_in = ModuleType("shear_lit.data.references")
    stand_in.References, stand_in.write_references = References, write_references
    monkeypatch.setitem(sys.modules, "shear_lit.data.references", stand_in)


def test_evaluate_gives_the_losses_of_every_domain(source, data, tmp_path):
    result = evaluate(source, "data", output=str(tmp_path / "deep" / "losses.json"))
    assert set(result.losses) == {"wiki", "code"}
    assert all(0 < loss < 10 for loss in result.losses.values())
    text = str(result)
    assert f"{result.losses['wiki']:.4f}" in text and "mean" in text and f"{result.parameters:,}" in text
    stored = json.loads((tmp_path / "deep" / "losses.json").read_text())
    assert stored["losses"] == result.losses and stored["tokenizer"] == "abc"


def test_data_of_another_tokenizer_is_refused_before_weights_are_read(source, data, monkeypatch):
    monkeypatch.setattr(command, "read_model", lambda *_, **__: pytest.fail("weights were read"))
    data.tokenizer.fingerprint = "other"
    with pytest.raises(ValueError, match="another tokenizer"):
        evaluate(source, "data")


def test_unknown_tokens_are_refused(source, data):
    data.tokenizer.vocabulary = tiny.VOCABULARY + 1
    with pytest.raises(EvaluationError, match="knows 50"):
        evaluate(source, "data")


def test_sequences_longer_than_the_model_allows_are_refused(source, data):
    data.sequence_length = 65
    with pytest.raises(EvaluationError, match="max_position_embeddings"):
        evaluate(source, "data")


def test_measured_references_are_the_evaluated_losses(source, data, written, tmp_path):
    output = tmp_path / "references.yaml"
    result = COMMANDS["measure"](source, "data", str(output))
    stored = yaml.safe_load(output.read_text())
    assert stored == {
        "format": 1,
        "source": source,
        "tokenizer": "abc",
        "losses": evaluate(source, "data").losses,
    }
    assert str(output) in str(result)


def test_references_are_not_overwritten(source, data, written, tmp_path):
    output = tmp_path / "references.yaml"
    output.write_text("mine")
    with pytest.raises(EvaluationError, match="not overwritten"):
        measure(source, "data", str(output))
    assert output.read_text() == "mine"


def test_undefined_loss_is_no_reference(source, data, written, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "measure_domain_losses", lambda *_: {"wiki": 1.0, "code": math.nan})
    with pytest.raises(EvaluationError, match="code is not finite"):
        measure(source, "data", str(tmp_path / "references.yaml"))
    assert not (tmp_path / "references.yaml").exists()
