"""`export --repair`: a cut that is refitted towards its source, and what is said of it."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from shear_lit.commands import exporting as command
from shear_lit.commands import repairing
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.data.errors import DataError
from shear_lit.evaluation.domain_loss import mean_loss
from shear_lit.evaluation.repair_text import check_enough
from shear_lit.mistakes import Mistake
from shear_lit.models.registry import family_of
from shear_lit.models.source_files import SourceError
from shear_lit.reporting.recipe import read_recipe
from shear_lit.theory.shape import ModelShape
from shear_lit.training.run_checkpoints import latest_checkpoint

TARGET = ModelShape(layers=2, hidden=24, query_heads=4, kv_heads=2, intermediate=32)


@pytest.fixture(scope="module")
def scores(toy, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.safetensors"
    rank(str(toy.source()), str(path), "default", str(toy.data), sequences_per_domain=4)
    return str(path)


def test_repaired_cut_is_closer_to_the_source_and_says_what_was_done(toy, tmp_path, scores):
    for name, options in (("cut", {}), ("repaired", {"repair": str(toy.data), "repair_tokens": 2000})):
        result = export(gates=scores, output=str(tmp_path / name), target=TARGET, **options)
        assert result.shape == TARGET and result.gated_difference <= 1e-5
    distances = []
    source = AutoModelForCausalLM.from_pretrained(toy.source())
    ids = torch.arange(2, 42).view(2, 20) % source.config.vocab_size
    with torch.no_grad():
        wanted = source(ids).logits.log_softmax(-1)
        for name in ("cut", "repaired"):
            found = AutoModelForCausalLM.from_pretrained(tmp_path / name)(ids).logits.log_softmax(-1)
            distances.append(float((wanted.exp() * (wanted - found)).sum(-1).mean()))
    assert distances[1] < distances[0]
    recipe, page = read_recipe(tmp_path / "repaired"), (tmp_path / "repaired" / "repair.md").read_text()
    facts = recipe["repair"]
    assert (
        facts["tokens"] >= 400 and facts["parts"] == "embedding" and 0 < facts["refitted"] <= facts["weights"]
    )
    assert (
        page.count("| model.layers.") + 1 == facts["weights"] == 15
        and "| model.embed_tokens.weight |" in page
    )
    card = (tmp_path / "repaired" / "README.md").read_text()
    assert f"{facts['refitted']} of 15 weights were refitted in closed form" in card
    assert not (tmp_path / "cut" / "repair.md").exists() and read_recipe(tmp_path / "cut")["repair"] is None
    kept = [json.loads((tmp_path / name / "gates.json").read_text()) for name in ("cut", "repaired")]
    assert kept[0] == kept[1]
    assert mean_loss(evaluate(str(tmp_path / "repaired"), str(toy.data), 4).losses) > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(repair="/nowhere"), ["/nowhere"]),
        (dict(repair_tokens=99), ["repair_tokens has no effect", "add --repair DATA"]),
        (dict(repair_parts="norms"), ["repair_parts has no effect"]),
        (dict(repair_generated_fraction=0.2), ["repair_generated_fraction has no effect"]),
    ],
    ids=["no data", "tokens without", "parts without", "generated without"],
)
def test_mistakes_are_named_before_weights_are_read(toy, tmp_path, scores, monkeypatch, given, words):
    def refuse(*args, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(command, "read_model", refuse)
    with pytest.raises(Mistake) as found:
        export(**{"gates": scores, "output": str(tmp_path / "out"), "target": TARGET, **given})
    assert all(word in str(found.value) for word in words), found.value
    assert not list(tmp_path.glob("out*"))


def test_repair_that_takes_more_memory_than_there_is_is_refused_before_weights_are_read(
    toy, tmp_path, scores, monkeypatch
):
    monkeypatch.setattr(repairing, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(command, "read_model", lambda *args, **options: pytest.fail("weights were read"))
    with pytest.raises(DataError, match=r"GB on cpu, where 0\.0 GB are free\. Use fewer") as found:
        export(gates=scores, output=str(tmp_path / "out"), target=TARGET, repair=str(toy.data))
    assert found.value.key == "repair_tokens" and not (tmp_path / "out").exists()


def test_too_little_text_for_the_widest_weight_is_refused():
    family = family_of(LlamaConfig())  # of 7 billion parameters
    target = ModelShape(layers=24, hidden=2048, query_heads=16, kv_heads=16, intermediate=5504)
    check_enough(6880, family, target, split="prune", key="repair_tokens")
    with pytest.raises(DataError, match=r"6,879 tokens .* 5,504 columns, and needs 6,880") as found:
        check_enough(6879, family, target, split="prune", key="repair_tokens")
    assert found.value.key == "repair_tokens"


def test_checkpoint_is_repaired_towards_the_model_that_its_run_started_from_and_no_other(
    toy, tmp_path, whole
):
    folder, _ = whole("prune")
    checkpoint, options = str(latest_checkpoint(folder)), {"repair": str(toy.data), "repair_tokens": 400}
    result = export(checkpoint=checkpoint, output=str(tmp_path / "out"), **options)
    assert result.gated_difference <= 1e-5 and (tmp_path / "out" / "repair.md").exists()
    assert read_recipe(tmp_path / "out")["repair"]["refitted"] > 0
    shutil.copytree(toy.source(), tmp_path / "other")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    network.model.norm.weight.data += 1
    network.save_pretrained(tmp_path / "other")
    with pytest.raises(SourceError, match="is not the model that was cut"):
        export(checkpoint=checkpoint, output=str(tmp_path / "x"), source=str(tmp_path / "other"), **options)
    assert not (tmp_path / "x").exists()
