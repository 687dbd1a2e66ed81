"""Every YAML in configs/ is built and checked as a run, without weights."""

import json
import re
import shutil
import types
from dataclasses import dataclass

import pytest
import yaml
from transformers import LlamaConfig, Qwen3Config

from shear_lit import cli
from shear_lit.commands import fit
from shear_lit.data.prepared.manifest import (
    SPLITS,
    ChunkRecord,
    DomainRecord,
    FileRecord,
    Manifest,
    SplitRecord,
    TokenizerRecord,
)
from shear_lit.data.serving import datamodule
from shear_lit.data.serving.loader import accumulation_of
from shear_lit.models import adapters
from shear_lit.models.registry import parameter_count
from shear_lit.training import checks, module, teacher_checks
from tests.toy import CONFIGS

FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name in ("prune", "pretrain", "tune"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a config's source is, as far as its ``config.json`` says."""

    shape: dict
    entries: dict
    config: type = LlamaConfig
    length: int = 4096
    """Tokens of one sequence of the prepared data."""


SOURCES = {
    "smollm2": Source(
        shape=dict(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536),
        entries=dict(vocab_size=49152, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True),
        length=512,
    ),
    "llama2": Source(
        shape=dict(layers=32, hidden=4096, query_heads=32, kv_heads=32, intermediate=11008),
        entries=dict(vocab_size=32000, head_dim=128, max_position_embeddings=4096, tie_word_embeddings=False),
    ),
    "llama3.1": Source(
        shape=dict(layers=32, hidden=4096, query_heads=32, kv_heads=8, intermediate=14336),
        entries=dict(
            vocab_size=128256,
            head_dim=128,
            max_position_embeddings=131072,
            tie_word_embeddings=False,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=500000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=8192,
            ),
        ),
    ),
    "qwen3": Source(
        shape=dict(layers=36, hidden=4096, query_heads=32, kv_heads=8, intermediate=12288),
        entries=dict(
            vocab_size=151936, head_dim=128, max_position_embeddings=32768, tie_word_embeddings=False
        ),
        config=Qwen3Config,
    ),
}
"""The sources by the word that is in the names of their configs (``sheared-llama`` is Llama 2's)."""
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


class Built(SystemExit):
    """A run that passed its checks."""


def source_of(path):
    """The source of stage 1 for a config of either stage."""
    return SOURCES[next((word for word in SOURCES if word in path.name), "llama2")]


def twin(path):
    """The config of stage 1 whose target is the model that ``path`` trains."""
    if path.parent.name == "prune":
        return path
    pruned = re.sub("sheared-(llama3.1|qwen3)-4b", r"\1-8b_to_4b", path.name.replace("-lora", ""))
    return CONFIGS / "prune" / pruned.replace("sheared-llama-", "llama2-7b_to_")


def shape_of(path):
    if path.parent.name == "prune" or "conversations" in path.name:
        return source_of(path).shape
    return yaml.safe_load(twin(path).read_text())["model"]["pruning"]["target"]


def write_config_only(directory, path):
    shape, source = shape_of(path), source_of(path)
    source.config(
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["query_heads"],
        num_key_value_heads=shape["kv_heads"],
        intermediate_size=shape["intermediate"],
        **source.entries,
    ).save_pretrained(directory)
    # As an export names its source, which the demo's second stage learns from.
    (directory / "recipe.json").write_text(json.dumps({"source": str(directory)}))
    return directory


def manifest(domains, length):
    split = SplitRecord(
        documents=1,
        tokens=0,
        tail_tokens=0,
        chunks=(
            ChunkRecord(
                file="a",
                bytes=1,
                sequences=10_000,
                sha256="",
                documents=FileRecord(file="b", bytes=1, sha256=""),
            ),
        ),
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
        mixture = settings["data"]["mixture"]
        stage_1 = yaml.safe_load(twin(path).read_text()) if path.parent.name == "pretrain" else settings
        # Stage 2 may begin with the last mixture of stage 1: the domains are the same.
        continues = isinstance(mixture["proportions"], str)
        domains = (stage_1["data"]["mixture"] if continues else mixture)["proportions"]
        length = source_of(path).length
        monkeypatch.setattr(datamodule, "read_data", lambda *place: manifest(domains, length))
        arguments = [
            "fit",
            f"--config={path}",
            f"--model.source={write_config_only(tmp_path / 'source', path)}",
            f"--trainer.default_root_dir={tmp_path / 'run'}",
            "--trainer.accelerator=cpu",
            "--trainer.devices=1",
            "--trainer.num_nodes=1",
        ]
        if continues:
            assert mixture["proportions"] == stage_1["trainer"]["default_root_dir"]
            arguments.append(f"--data.mixture.proportions={json.dumps(domains)}")
        if isinstance(mixture.get("references"), str):
            arguments.append(f"--data.mixture.references={json.dumps(dict.fromkeys(domains, 3.0))}")
        with pytest.raises(Built) as found:
            cli.main(arguments)
        return found.value.args[0], settings

    check = fit.ShearingCLI.before_fit
    monkeypatch.setattr(fit.ShearingCLI, "before_fit", stop)
    monkeypatch.setattr(module, "read_model", no_weights)
    monkeypatch.setattr(
        adapters, "find_spec", lambda name: object()
    )  # whether peft is installed is no matter here
    known = types.SimpleNamespace(is_of=lambda fingerprint: fingerprint == "f" * 64)
    for asks in (checks, teacher_checks):
        monkeypatch.setattr(asks, "tokenizer_of", lambda source: known)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**13, 0, 10**13))
    return build


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_builds_a_run_that_passes_every_check(build, path):
    run, settings = build(path)
    stage = path.parent.name
    assert run.datamodule.split == ("prune" if stage == "prune" else "pretrain")
    assert (run.model.pruning is None) == (stage != "prune")
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


@pytest.mark.parametrize("size", PARAMETERS)
def test_configs_of_tuning_have_the_figures_of_the_release(build, size):
    """What its script says: 16 sequences on each of 8 GPUs, 5e-5, 3 % warm-up, a cosine to 0, two epochs."""
    run, settings = build(CONFIGS / "tune" / f"sheared-llama-{size}.yaml")
    assert parameter_count(run.model.source_config) == PARAMETERS[size]
    optimizer, data = run.model.optimizer_settings, run.datamodule
    assert (data.global_batch, data.micro_batch * settings["trainer"]["devices"]) == (128, 128)
    assert (optimizer.weights_learning_rate, optimizer.final_fraction, optimizer.weight_decay) == (
        5e-5,
        0.0,
        0.0,
    )
    assert optimizer.warmup_steps == round(0.03 * run.trainer.max_steps)
    assert data.mixture.max_epochs == 2 and run.trainer.max_steps == 2 * 10_000 // 128
    assert data.mixture.rule == "static" and not data.cross_document_attention
    whole, adapted = (
        flat(yaml.safe_load((CONFIGS / "tune" / f"sheared-llama-2.7b{way}.yaml").read_text()))
        for way in ("", "-lora")
    )
    differing = {
        key.partition(".lora")[0]
        for key in whole.keys() | adapted.keys()
        if whole.get(key) != adapted.get(key)
    }
    assert differing == {
        "model",
        "model.optimizer.weights_learning_rate",
        "trainer.default_root_dir",
        "trainer.devices",
        "trainer.strategy",
    }


HALVES = {
    "llama3.1-8b_to_4b": ("sheared-llama3.1-4b", 8_030_261_248, 4_009_430_016),
    "qwen3-8b_to_4b": ("sheared-qwen3-4b", 8_190_735_360, 4_154_928_128),
}
"""Stage 1, its stage 2, and the parameters of source and target, which the files state."""
ELSEWHERE = {
    "trainer.default_root_dir",
    "model.source",
    "data.directory",
    "data.micro_batch",
    "data.validation_micro_batch",
    "data.mixture.references",
}
"""Keys outside ``model.pruning`` in which they differ from the paper's: places, and memory for more logits."""


@pytest.mark.parametrize("name", HALVES)
def test_configs_at_half_the_size_have_the_parameters_that_they_state(build, name, caplog):
    _, whole, half = HALVES[name]
    run, settings = build(CONFIGS / "prune" / f"{name}.yaml")
    assert parameter_count(run.model.source_config) == whole
    assert parameter_count(run.model.source_config, run.model.pruning.target) == half
    assert 0.49 < half / whole < 0.51
    assert (
        "WARNING" not in caplog.text
    )  # of kernels that are slower, or of programs that do not read the shape
    sizes = settings["model"]["pruning"]["target"]
    assert sizes["hidden"] % 1024 == sizes["intermediate"] % 1024 == 0
    text = (CONFIGS / "prune" / f"{name}.yaml").read_text()
    assert f"{whole:,} parameters" in text and f"{half:,} parameters" in text
    assert {axis.value for axis in run.model.axes} == set(settings["model"]["pruning"]["axes"])


def flat(settings, above=""):
    """Every value of a config by its whole key; a mapping of domains counts as one value."""
    found = {}
    for name, value in settings.items():
        key = f"{above}{name}"
        nested = isinstance(value, dict) and not key.startswith("data.mixture.")
        found |= flat(value, f"{key}.") if nested else {key: value}
    return found


@pytest.mark.parametrize("name", HALVES)
def test_configs_at_half_the_size_train_as_the_paper_does(name):
    for stage, of, like in (
        ("prune", name, "llama2-7b_to_2.7b"),
        ("pretrain", HALVES[name][0], "sheared-llama-2.7b"),
    ):
        ours, paper = (
            flat(yaml.safe_load((CONFIGS / stage / f"{file}.yaml").read_text())) for file in (of, like)
        )
        differing = {key for key in ours.keys() | paper.keys() if ours.get(key) != paper.get(key)}
        assert {key for key in differing if not key.startswith("model.pruning.")} == ELSEWHERE | (
            {"data.mixture.proportions"} if stage == "pretrain" else set()
        )


def test_toy_configs_are_those_of_the_tests():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in (CONFIGS / "toy").glob("*.yaml")}
    assert sorted(found) == ["pretrain", "prune"]
    for stage, settings in found.items():
        assert settings["data"]["split"] == stage
