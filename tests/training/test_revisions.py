"""A run of a hub model reads one commit: in every process, and again after a resume, whatever the hub has then."""

import json
import os
from functools import partial

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from shear_lit.commands.export import export
from shear_lit.training.checkpoints import CheckpointFacts, read_facts
from shear_lit.training.module import ShearingModule
from tests.hub import FIRST, NAME, SECOND, publish, use
from tests.training.forks import ForkError, run
from tests.training.runs import fit

LENGTH = ["--trainer.max_steps=4", "--data.mixture.update_every_steps=2", "--trainer.logger=false"]


@pytest.fixture
def second(toy, tmp_path):
    """The directory of a later commit: the same shape, other weights."""
    directory = tmp_path / "second"
    directory.mkdir()
    for path in toy.source().iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    entries = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**entries, "max_position_embeddings": 128}))
    return directory


def commit_of_each_rank(cache):
    """Read from the cache of this rank, and keep which commit the weights are of."""
    use(cache / os.environ.get("LOCAL_RANK", "0"))
    build = ShearingModule.configure_model

    def watched(self):
        build(self)
        self.seen = (self.source, self.source_config.max_position_embeddings)

    ShearingModule.configure_model = watched


def started(toy, tmp_path, name, *flags, processes=1):
    arguments = [
        word for word in toy.arguments("pretrain", tmp_path / "run") if not word.startswith("--model.source")
    ]
    arguments += [f"--model.source={NAME}", *LENGTH, *flags]
    sabotage = partial(commit_of_each_rank, tmp_path / "hub")
    return run(fit, tmp_path / name, processes=processes, arguments=arguments, sabotage=sabotage)


def test_commit_is_recorded_and_read_again_after_a_resume(toy, tmp_path, second, monkeypatch):
    publish(tmp_path / "hub" / "0", toy.source(), FIRST)
    (record,) = started(toy, tmp_path, "first")
    folder, pinned = tmp_path / "run", f"{NAME}@{FIRST}"
    assert record["seen"] == (pinned, 64)
    checkpoint = folder / "checkpoints" / "step=000002.ckpt"
    assert read_facts(checkpoint).source == pinned
    assert json.loads((folder / "provenance.json").read_text())["source"]["commit"] == FIRST
    written = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert (written["source"], written["revision"]) == (NAME, FIRST)

    publish(tmp_path / "hub" / "0", second, SECOND)
    (again,) = started(toy, tmp_path, "again", f"--ckpt_path={checkpoint}")
    assert again["seen"] == (pinned, 64)
    assert torch.equal(*(each["parameters"]["model.model.norm.weight"] for each in (record, again)))
    assert read_facts(folder / "checkpoints" / "step=000004-2.ckpt").source == pinned
    with pytest.raises(
        ForkError, match=rf"model\.revision='main' is the commit {SECOND} .* with {FIRST}\. Remove it"
    ):
        started(toy, tmp_path, "other", f"--ckpt_path={checkpoint}", "--model.revision=main")

    newest = f"--model.source={NAME}@main"
    with pytest.raises(ForkError, match=rf"model\.revision='main' is the commit {SECOND}"):
        started(toy, tmp_path, "newest", f"--ckpt_path={checkpoint}", newest)

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub" / "0"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    export(str(checkpoint), str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 64
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"base_model: {NAME}\n" in card and f"`{pinned}`" in card


def test_all_processes_read_the_commit_of_the_first(toy, tmp_path, second):
    """Whose machine may have looked at the hub before, or after, the others."""
    publish(tmp_path / "hub" / "0", toy.source(), FIRST)
    publish(tmp_path / "hub" / "1", toy.source(), FIRST)
    publish(tmp_path / "hub" / "1", second, SECOND)
    spread = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    ranks = started(toy, tmp_path, "log", *spread, processes=2)
    assert [rank["seen"] for rank in ranks] == [(f"{NAME}@{FIRST}", 64)] * 2


def test_dtype_that_no_config_names_is_recorded_for_exports(toy, second, tmp_path):
    """Weights are trained in float32, and the source may be gone when they are exported."""
    entries = json.loads((second / "config.json").read_text())
    del entries["dtype"]
    (second / "config.json").write_text(json.dumps(entries))
    tensors = load_file(second / "model.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(half, second / "model.safetensors", metadata={"format": "pt"})
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), *LENGTH, f"--model.source={second}"]
    run(fit, tmp_path / "log", arguments=arguments)
    assert read_facts(tmp_path / "run" / "checkpoints" / "step=000004.ckpt").config["dtype"] == "bfloat16"


def test_checkpoint_without_a_commit_is_read_as_before(toy):
    """Of runs before commits were recorded, and of runs of a directory."""
    source = str(toy.source())
    module = ShearingModule(source)
    for recorded in (NAME, source, "elsewhere", f"{NAME}@{FIRST}"):
        module.go_on_from(recorded)
    assert module.source == source
    entry = CheckpointFacts(
        source=NAME, source_fingerprint="x", config={}, target=None, step=1, tokens=1
    ).to_entry()
    assert CheckpointFacts.from_entry(entry, "x").source == NAME
