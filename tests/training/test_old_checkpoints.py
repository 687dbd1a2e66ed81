"""Checkpoints of earlier versions resume and export (``tests.training.old_checkpoints`` wrote them)."""

import tarfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.commands.export import export
from shear_lit.training.checkpoints import read_checkpoint
from tests.training.forks import run
from tests.training.old_checkpoints import RUNS, TARGET, arguments
from tests.training.runs import fit

ARCHIVES = sorted((Path(__file__).parent / "old").glob("*.tar.xz"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def old(request, tmp_path_factory):
    """What an archive holds."""
    root = tmp_path_factory.mktemp("old")
    with tarfile.open(request.param) as archive:
        archive.extractall(root, filter="data")
    return root


def checkpoint(root, name, step):
    return root / name / "checkpoints" / f"step={step:06d}{'' if 'shards' in name else '.ckpt'}"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.nightly] if name in ("pretrain-shards", "lagrangian-shards") else []
        )
        for name in RUNS
    ],
)
def test_an_old_run_goes_on_and_ends_as_it_did(old, tmp_path, name):
    """From step 2 on, today's code takes the steps that the old one took; another processor rounds otherwise."""
    expected = read_checkpoint(checkpoint(old, name, 4))
    words = [word for word in arguments(old, name) if "default_root_dir" not in word]
    words += [f"--trainer.default_root_dir={tmp_path / 'run'}", f"--ckpt_path={checkpoint(old, name, 2)}"]
    run(fit, tmp_path / "log", processes=2 if "shards" in name else 1, arguments=words)
    found = read_checkpoint(tmp_path / "run" / "checkpoints" / checkpoint(old, name, 4).name)
    assert found.facts.step == 4 and found.facts.tokens == expected.facts.tokens
    for tensors, wanted in ((found.tensors, expected.tensors), (found.log_alpha, expected.log_alpha)):
        assert tensors.keys() == wanted.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, wanted[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_an_old_checkpoint_is_exported(old, tmp_path, name):
    export(str(checkpoint(old, name, 4)), str(tmp_path / "out"), source=str(old / "source"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    layers = TARGET["layers"] if "pretrain" not in name else 2
    assert model.config.num_hidden_layers == layers and (tmp_path / "out" / "tokenizer.json").is_file()
