"""Export: a checkpoint becomes a stock directory at exactly the target, or nothing is left."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from shear_lit.commands import exporting as command
from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.models import directories, writing
from shear_lit.models.directories import DirectoryError
from shear_lit.models.huggingface import SourceError
from shear_lit.models.llama import llama
from shear_lit.models.registry import family_of, keeps_period
from shear_lit.models.verification import VerificationError
from shear_lit.models.writing import WEIGHT_SUFFIXES
from shear_lit.pruning import verified_cut
from shear_lit.pruning.attach import attach
from shear_lit.pruning.constraints import LAGRANGIAN
from shear_lit.theory.shape import Axis, ModelShape, TargetShape
from shear_lit.training.checkpoints import CheckpointError
from tests import tiny
from tests.toy_families import FORMS, model_of

MODELS = {
    "gqa-tied": (dict(tied=True), tiny.TARGET),
    "gqa-untied": (dict(tied=False), tiny.TARGET),
    "mha-tied": (dict(tied=True, kv_heads=4), None),
    "mha-untied": (dict(tied=False, kv_heads=4), None),
}
MHA_TARGET = ModelShape(layers=2, hidden=24, query_heads=2, kv_heads=2, intermediate=20)


@pytest.fixture
def trained(tmp_path):
    """A source, and a checkpoint of either kind made from it."""

    def make(kind="step=000007.ckpt", *, pruned=True, dtype=torch.float32, target=tiny.TARGET, **model):
        settings = tiny.config(**model)
        network = tiny.write_source(tmp_path / "source", settings, dtype=dtype)
        stored = AutoConfig.from_pretrained(tmp_path / "source")
        gates = tiny.log_alpha(settings) if pruned else {}
        known = tiny.facts(stored, tmp_path / "source", target=target if pruned else None)
        path = tiny.write_checkpoint(tmp_path / kind, tiny.checkpoint(network.float(), known, gates))
        return path, network, settings

    return make


def tokens():
    return torch.randint(tiny.VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(3))


def left_in(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out"))


@pytest.mark.parametrize("kind", ["step=000007.ckpt", "step=000007"])
@pytest.mark.parametrize("name", MODELS)
def test_export_computes_what_the_gated_model_computes(tmp_path, trained, name, kind):
    model, target = MODELS[name]
    target = target or MHA_TARGET
    path, network, settings = trained(kind, target=target, **model)
    result = export(str(path), str(tmp_path / "out"))

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert llama(loaded.config).shape == target == result.shape
    assert loaded.config.tie_word_embeddings is model["tied"]
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is model["tied"]
    assert result.parameters == loaded.num_parameters()
    attach(network, llama(settings)).set(LAGRANGIAN.standing(tiny.log_alpha(settings), target))
    with torch.inference_mode():
        gated, carved = network(tokens()).logits, loaded(tokens()).logits
    assert (gated - carved).abs().max() <= 1e-5 * gated.abs().max()
    assert 0 <= result.gated_difference <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_stored_in_the_chosen_dtype(tmp_path, trained, dtype):
    path, *_ = trained()
    result = export(str(path), str(tmp_path / "out"), dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        getattr(torch, dtype)
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype == result.dtype


def test_dtype_is_the_sources_unless_chosen(tmp_path, trained):
    path, *_ = trained(dtype=torch.bfloat16)
    assert export(str(path), str(tmp_path / "out")).dtype == "bfloat16"


def unnamed(source, dtypes):
    """Take the dtype out of the config of a source, and store its tensors in those given, norms in the second."""
    entries = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps({name: value for name, value in entries.items() if name not in ("dtype", "torch_dtype")})
    )
    tensors = load_file(source / "model.safetensors")
    save_file(
        {name: tensor.to(dtypes["norm" in name]) for name, tensor in tensors.items()},
        source / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize(
    "dtypes",
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float16), (torch.float32, torch.bfloat16)],
)
def test_dtype_that_no_config_names_is_that_of_most_numbers(tmp_path, trained, dtypes):
    """Of a checkpoint, and of the source that scores are of; a few tensors in another type change nothing."""
    path, *_ = trained()
    unnamed(tmp_path / "source", dtypes)
    content = torch.load(path, weights_only=False)
    content["shear_lit"]["config"].pop("dtype")
    tiny.write_checkpoint(path, content)
    expected = str(dtypes[0]).removeprefix("torch.")
    assert export(str(path), str(tmp_path / "out")).dtype == expected
    scores = tmp_path / "scores.safetensors"
    rank(str(tmp_path / "source"), str(scores), criterion="weight")
    cut = export(gates=str(scores), output=str(tmp_path / "cut"), target=TargetShape(layers=2))
    assert cut.dtype == expected == json.loads((tmp_path / "cut" / "config.json").read_text())["dtype"]


def test_dtype_of_most_numbers_that_is_not_written_is_refused(tmp_path, trained):
    path, *_ = trained()
    unnamed(tmp_path / "source", (torch.float64, torch.float64))
    content = torch.load(path, weights_only=False)
    content["shear_lit"]["config"].pop("dtype")
    tiny.write_checkpoint(path, content)
    with pytest.raises(SourceError, match=r"stored in 'float64'.*Choose --dtype"):
        export(str(path), str(tmp_path / "out"))


def test_tied_head_is_stored_once(tmp_path, trained):
    path, *_ = trained(tied=True)
    export(str(path), str(tmp_path / "out"))
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_checkpoint_without_gates_is_written_as_it_is(tmp_path, trained):
    path, network, settings = trained(pruned=False)
    result = export(str(path), str(tmp_path / "out"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(loaded(tokens()).logits, network(tokens()).logits)
    assert result.gated_difference is None
    assert result.shape == llama(settings).shape
    assert not (tmp_path / "out" / "gates.shear").exists()
    assert "bit for bit" in str(result) and "gated" not in str(result)


def test_companions_of_the_source_are_carried_over(tmp_path, trained):
    path, *_ = trained()
    export(str(path), str(tmp_path / "out"))
    out = tmp_path / "out"
    assert (out / "LICENSE").read_text() == tiny.LICENCE
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": 7, "max_length": 33}
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny.CHAT_TEMPLATE
    assert AutoTokenizer.from_pretrained(out)("w3 w5").input_ids == [3, 5]
    assert not list(out.glob("*.py"))


def test_config_is_vanilla(tmp_path, trained):
    path, *_ = trained()
    export(str(path), str(tmp_path / "out"))
    entries = json.loads((tmp_path / "out" / "config.json").read_text())
    assert entries["architectures"] == ["LlamaForCausalLM"]
    assert not {"auto_map", "quantization_config", "_name_or_path"} & entries.keys()


def test_gates_and_recipe_say_what_was_cut(tmp_path, trained):
    path, _, settings = trained()
    export(str(path), str(tmp_path / "out"))
    gates = load_file(tmp_path / "out" / "gates.shear")
    for axis, rows in tiny.log_alpha(settings).items():
        assert torch.equal(gates[f"log_alpha.{axis.value}"], rows)
    best = tiny.log_alpha(settings)[Axis.HIDDEN].topk(tiny.TARGET.hidden).indices.sort().values
    assert torch.equal(gates["kept.hidden"], best)
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["shape"] == tiny.TARGET.to_dict()
    assert (recipe["step"], recipe["tokens"], recipe["losses"]) == (7, 1234, {"wiki": 2.5, "code": 1.25})
    assert recipe["expected_units"]["hidden"]["target"] == tiny.TARGET.hidden


def test_recipe_of_stage_two_holds_that_of_stage_one(tmp_path, trained):
    path, *_ = trained()
    export(str(path), str(tmp_path / "one"))
    settings = AutoConfig.from_pretrained(tmp_path / "one")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    known = tiny.facts(settings, tmp_path / "one", target=None)
    second = tiny.write_checkpoint(tmp_path / "second.ckpt", tiny.checkpoint(network, known, {}))
    export(str(second), str(tmp_path / "out"))
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["source_recipe"]["shape"] == tiny.TARGET.to_dict()
    assert recipe["lineage"] == [str(tmp_path / "source")]
    assert (tmp_path / "out" / "LICENSE").read_text() == tiny.LICENCE  # carried twice
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()


def test_axis_far_from_its_target_is_said_loudly(tmp_path, trained):
    path, *_ = trained()
    result = export(str(path), str(tmp_path / "out"))
    warned = [warning.split(":")[0] for warning in result.warnings if "the gates keep" in warning]
    assert warned == [axis.axis.value for axis in result.expected if axis.off_target] != []
    assert f"WARNING: {warned[0]}: the gates keep" in str(result)


def test_output_that_is_not_empty_is_refused_and_left_alone(tmp_path, trained):
    path, *_ = trained()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(DirectoryError, match="not empty"):
        export(str(path), str(tmp_path / "out"))
    assert (tmp_path / "out" / "mine").read_text() == "keep"
    assert left_in(tmp_path) == ["out"]


def test_empty_output_directory_is_taken(tmp_path, trained):
    path, *_ = trained()
    (tmp_path / "out").mkdir()
    export(str(path), str(tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_half_written_checkpoint_is_refused(tmp_path, trained):
    path, *_ = trained("step=000007")
    (path / "meta.pt").unlink()
    with pytest.raises(CheckpointError, match="half-written"):
        export(str(path), str(tmp_path / "out"))
    assert left_in(tmp_path) == []


def test_full_disk_is_refused_before_weights_are_computed(tmp_path, trained, monkeypatch):
    path, *_ = trained()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(directories.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(command.OpenedCheckpoint, "read", lambda _: pytest.fail("the checkpoint was read"))
    with pytest.raises(DirectoryError, match="GB are needed"):
        export(str(path), str(tmp_path / "out"))
    assert left_in(tmp_path) == []


def test_cut_that_computes_something_else_leaves_nothing(tmp_path, trained, monkeypatch):
    """The twin of the gated-against-carved check: a carve that forgets to fold one gate."""

    def careless(tensors, family, values):
        carved = command_carve(tensors, family, values)
        name = "model.layers.0.mlp.down_proj.weight"
        return carved | {name: carved[name] * 1.01}

    command_carve = verified_cut.carve
    path, *_ = trained()
    monkeypatch.setattr(verified_cut, "carve", careless)
    with pytest.raises(
        VerificationError, match=r"gated against carved logits in float32: max \|difference\| is"
    ):
        export(str(path), str(tmp_path / "out"))
    assert left_in(tmp_path) == []


def test_weights_that_are_not_finite_leave_nothing(tmp_path, trained):
    path, *_ = trained()
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.model.norm.weight"][:] = torch.nan
    torch.save(content, path)
    with pytest.raises(VerificationError, match="is nan of the largest"):
        export(str(path), str(tmp_path / "out"))
    assert left_in(tmp_path) == []


def test_written_weights_that_read_back_differently_leave_nothing(tmp_path, trained, monkeypatch):
    """The twin of the written-against-reloaded check: one bit changes on the disk."""

    def damage(source, directory):
        weights = load_file(directory / "model.safetensors")
        weights["model.norm.weight"][0] += 1e-6
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})

    path, *_ = trained()
    monkeypatch.setattr(writing, "copy_companions", damage)
    with pytest.raises(
        VerificationError, match=r"written against reloaded model: the parameter model\.norm\.weight"
    ):
        export(str(path), str(tmp_path / "out"))
    assert left_in(tmp_path) == []


def test_killed_export_leaves_no_directory_and_can_be_repeated(tmp_path, trained, monkeypatch):
    path, *_ = trained()

    def hang(source, directory):
        (tmp_path / "reached").touch()
        time.sleep(60)

    monkeypatch.setattr(writing, "copy_companions", hang)
    child = multiprocessing.get_context("fork").Process(
        target=export, args=(str(path), str(tmp_path / "out"))
    )
    torch.set_num_threads(1)  # no thread pool is inherited by the child
    child.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert left_in(tmp_path) == ["out.partial"]
    monkeypatch.undo()
    export(str(path), str(tmp_path / "out"))
    assert left_in(tmp_path) == ["out"]


def test_source_that_moved_is_asked_for_and_taken(tmp_path, trained):
    path, *_ = trained()
    (tmp_path / "source").rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="--source"):
        export(str(path), str(tmp_path / "out"))
    assert left_in(tmp_path) == []
    result = export(str(path), str(tmp_path / "out"), source=str(tmp_path / "moved"))
    assert not any("not the model" in warning for warning in result.warnings)


def test_source_that_changed_is_said(tmp_path, trained):
    path, *_ = trained()
    shutil.rmtree(tmp_path / "source")
    tiny.write_source(tmp_path / "source", tiny.config(tied=False))
    result = export(str(path), str(tmp_path / "out"))
    assert any("not the model that the run started from" in warning for warning in result.warnings)


def test_card_says_where_the_model_comes_from(tmp_path, trained):
    path, *_ = trained()
    export(str(path), str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "license: apache-2.0",
        "| hidden | 32 | 24 |",
        "| wiki | 2.5000 |",
        "LICENSE",
        "2310.06694",
        "1,234 tokens",
    ):
        assert part in card, part


def test_only_the_model_ends_as_weights_do(tmp_path, trained):
    """Clients take every such file for weights."""
    path, *_ = trained()
    export(str(path), str(tmp_path / "out"))
    found = [path.name for path in (tmp_path / "out").rglob("*") if path.suffix in WEIGHT_SUFFIXES]
    assert found == ["model.safetensors"]


@pytest.mark.parametrize("kept", [True, False])
def test_learned_cut_keeps_the_period_where_its_run_was_told_to(tmp_path, kept):
    form = next(form for form in FORMS if form.family == "gemma2" and form.tied)
    network = model_of(form, dtype=torch.float32, num_hidden_layers=6, layer_types=None)
    network.save_pretrained(tmp_path / "source")
    shape = family_of(network.config).shape
    target = ModelShape(**{**shape.to_dict(), "layers": 5})
    settings = AutoConfig.from_pretrained(tmp_path / "source")
    known = tiny.facts(
        settings, tmp_path / "source", target=target, axes=(Axis.LAYERS,), keep_layer_period=kept
    )
    gates = {
        Axis.LAYERS: torch.linspace(-2, 2, 6)
    }  # all but the first, which begins with the last of a period
    path = tiny.write_checkpoint(tmp_path / "step=000007.ckpt", tiny.checkpoint(network, known, gates))
    export(str(path), str(tmp_path / "out"))
    layers = json.loads((tmp_path / "out" / "gates.json").read_text())["kept"]["layers"]
    assert layers == ([0, 1, 2, 3, 4] if kept else [1, 2, 3, 4, 5])
    assert keeps_period(AutoConfig.from_pretrained(tmp_path / "out")) is kept


def test_card_of_a_learned_cut_says_how_long_its_gates_learned(tmp_path, trained):
    path, *_ = trained()
    content = torch.load(path, weights_only=True)
    content["shear_lit"]["pruning"]["ordered_by"] = "fisher"
    torch.save(content, path)
    export(str(path), str(tmp_path / "ordered"))
    said = "learned from the order of mean squared gradients of gates for 7 steps"
    assert said in (tmp_path / "ordered" / "README.md").read_text()
    assert "device-hours" not in (tmp_path / "ordered" / "README.md").read_text()
    content["callbacks"] = {"Boundary": {"device_seconds": 5400.0}}
    del content["shear_lit"]["pruning"]["ordered_by"]  # as in the paper, or as an earlier version wrote it
    torch.save(content, path)
    export(str(path), str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "with learned gates" in card and "chosen by gates that learned for 7 steps on 1,234 tokens" in card
    assert "in 1.50 device-hours" in card
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["device_seconds"] == 5400.0
    second = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    known = tiny.facts(second.config, tmp_path / "out", target=None)
    again = tiny.write_checkpoint(tmp_path / "second.ckpt", tiny.checkpoint(second, known, {}))
    export(str(again), str(tmp_path / "next"))
    card = (tmp_path / "next" / "README.md").read_text()
    assert "before that, `out`:" in card and "gates that learned for 7 steps on 1,234 tokens" in card
