"""Every YAML in configs/ is built and checked as a run, without weights."""

import json
import shutil

import pytest
import yaml
from transformers import LlamaConfig

from shear_lit import cli
from shear_lit.commands import fit
from shear_lit.data import datamodule
from shear_lit.data.loader import accumulation_of
from shear_lit.data.manifest import SPLITS, ChunkRecord, DomainRecord, Manifest, SplitRecord, TokenizerRecord
from shear_lit.models.registry import parameter_count
from shear_lit.training import checks, module
from tests.toy import CONFIGS

FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "toy")
LLAMA2_7B = dict(layers=32, hidden=4096, query_heads=32, kv_heads=32, intermediate=11008)
SMOLLM2 = dict(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536)
PARAMETERS = {"1.3b": 1_345_423_360, "2.7b": 2_701_560_320}
"""Of the published models princeton-nlp/Sheared-LLaMA-1.3B and -2.7B."""
FIGURES = {
    "prune": dict(max_steps=3200, batch=32, warmup=320, every=50, start=False, first=0.67, last=0.15),
    "pretrain": dict(
        max_steps=48000, batch=256, warmup=1440, every=400, start=True, first=0.2192, last=0.6845
    ),
}
REFERENCES = {
    "1.3b": [1.9643, 0.7459, 2.1393, 1.6117, 1.7590, 1.4449, 2.1251],
    "2.7b": [1.8712, 0.6883, 2.0325, 1.5353, 1.6297, 1.3560, 2.0328],
}
DOMAINS = ["cc", "github", "book", "stackexchange", "wiki", "arxiv", "c4-rp"]


class Built(BaseException):
    """A run that passed its checks."""


def twin(path):
    """The config of stage 1 whose target is the model that ``path`` trains."""
    if path.parent.name == "prune":
        return path
    return CONFIGS / "prune" / path.name.replace("sheared-llama-", "llama2-7b_to_")


def shape_of(path):
    source = LLAMA2_7B if "llama" in path.name else SMOLLM2
    return (
        source
        if path.parent.name == "prune"
        else yaml.safe_load(twin(path).read_text())["model"]["pruning"]["target"]
    )


def write_config_only(directory, path):
    shape, llama = shape_of(path), "llama" in path.name
    LlamaConfig(
        vocab_size=32000 if llama else 49152,
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["query_heads"],
        num_key_value_heads=shape["kv_heads"],
        intermediate_size=shape["intermediate"],
        head_dim=128 if llama else 64,
        max_position_embeddings=4096 if llama else 8192,
        tie_word_embeddings=not llama,
    ).save_pretrained(directory)
    return directory


def manifest(domains, length):
    split = SplitRecord(
        documents=1,
        tokens=0,
        tail_tokens=0,
        chunks=(ChunkRecord(file="a", bytes=1, sequences=1000, sha256=""),),
    )
    record = DomainRecord(documents=3, rejected={}, splits=dict.fromkeys(SPLITS, split))
    return Manifest(
        tokenizer=TokenizerRecord(name="t", fingerprint="f" * 64, vocabulary=100, bos_id=None, eos_id=1),
        sequence_length=length,
        token_type="uint16",
        prepend_bos=False,
        append_eos=True,
        domains=dict.fromkeys(domains, record),
    )


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build the run that a file describes, on this machine's CPU and without weights, and check it."""

    def no_weights(*args, **options):
        raise AssertionError("weights were read")

    def stop(self):
        check(self)
        raise Built(self)

    def build(path):
        settings = yaml.safe_load(path.read_text())
        domains = settings["data"]["mixture"]["proportions"]
        length = 4096 if "llama" in path.name else 512
        monkeypatch.setattr(datamodule, "read_prepared", lambda *place: manifest(domains, length))
        arguments = [
            "fit",
            f"--config={path}",
            f"--model.source={write_config_only(tmp_path / 'source', path)}",
            f"--trainer.default_root_dir={tmp_path / 'run'}",
            "--trainer.accelerator=cpu",
            "--trainer.devices=1",
            "--trainer.num_nodes=1",
        ]
        if isinstance(settings["data"]["mixture"].get("references"), str):
            arguments.append(f"--data.mixture.references={json.dumps(dict.fromkeys(domains, 3.0))}")
        with pytest.raises(Built) as found:
            cli.main(arguments)
        return found.value.args[0], settings

    check = fit.ShearingCLI.before_fit
    monkeypatch.setattr(fit.ShearingCLI, "before_fit", stop)
    monkeypatch.setattr(module, "read_model", no_weights)
    monkeypatch.setattr(checks, "tokenizer_fingerprint_of", lambda source: "f" * 64)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**13, 0, 10**13))
    return build


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_builds_a_run_that_passes_every_check(build, path):
    run, settings = build(path)
    stage = path.parent.name
    assert run.datamodule.split == stage
    assert (run.model.pruning is None) == (stage == "pretrain")
    trainer = settings["trainer"]
    world = int(trainer.get("devices", 1)) * int(trainer.get("num_nodes", 1))
    assert accumulation_of(run.datamodule.global_batch, run.datamodule.micro_batch, world) >= 1


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize("stage", FIGURES)
def test_configs_of_the_paper_have_its_figures(build, stage, size):
    name = {"prune": f"llama2-7b_to_{size}", "pretrain": f"sheared-llama-{size}"}[stage]
    run, _ = build(CONFIGS / stage / f"{name}.yaml")
    target = None if stage == "pretrain" else run.model.pruning.target
    assert parameter_count(run.model.source_config, target) == PARAMETERS[size]
    optimizer, mixture, figures = run.model.optimizer_settings, run.datamodule.mixture, FIGURES[stage]
    assert run.trainer.max_steps == figures["max_steps"]
    assert run.datamodule.global_batch == figures["batch"]
    assert (optimizer.weights_learning_rate, optimizer.warmup_steps) == (1e-4, figures["warmup"])
    assert (optimizer.betas, optimizer.epsilon, optimizer.weight_decay) == ((0.9, 0.95), 1e-8, 0.0)
    assert (optimizer.final_fraction, run.trainer.gradient_clip_val) == (0.1, 1.0)
    assert (mixture.update_every_steps, mixture.update_at_start) == (figures["every"], figures["start"])
    assert list(mixture.proportions) == DOMAINS
    assert (mixture.proportions["cc"], mixture.proportions["c4-rp"]) == (figures["first"], figures["last"])
    assert list(mixture.references.values()) == REFERENCES[size]
    assert run.trainer.precision == "bf16-mixed"
    if target is not None:
        assert run.model.pruning.sparsity_warmup_steps == 640
        assert (optimizer.gates_learning_rate, optimizer.multipliers_learning_rate) == (1.0, 1.0)


def test_toy_configs_are_those_of_the_tests():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in (CONFIGS / "toy").glob("*.yaml")}
    assert sorted(found) == ["pretrain", "prune"]
    for stage, settings in found.items():
        assert settings["data"]["split"] == stage
