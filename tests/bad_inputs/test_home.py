"""``~`` is the home directory in every key of every command, and in YAML: no command makes a folder of that name."""

import shutil

import pytest
import yaml

from shear_lit.commands.rank import rank
from tests.bad_inputs.ending import endings
from tests.toy import CONFIGS


@pytest.fixture(scope="module")
def home(toy, whole, tmp_path_factory):
    """A home directory with all that commands read."""
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(toy.root, root / "toy")
    run, _ = whole("prune")
    shutil.copytree(run, root / "run")
    scores = root / "toy" / "scores.safetensors"
    rank(source=str(root / "toy" / "gqa-tied"), output=str(scores), criterion="weight")
    settings = yaml.safe_load((CONFIGS / "toy" / "prune.yaml").read_text())
    settings["model"]["source"], settings["data"]["directory"] = "~/toy/gqa-tied", "~/toy/data"
    settings["trainer"]["default_root_dir"] = "~/yaml-run"
    settings["trainer"]["max_steps"] = 4
    (root / "run.yaml").write_text(yaml.safe_dump(settings))
    return root


MEASURE = ["--data=~/toy/data", "--sequences_per_domain=2"]
TARGET = ["--target.layers=2"]
NEW = "--output=~/new/a"
LINES = {
    "prepare": [
        "prepare", "--domains.law=~/toy/law.jsonl", "--tokenizer=~/toy/gqa-tied", "--sequence_length=24",
        "--workers=1", "--output=~/new/data",
    ],
    "check": ["prepare", "--check=~/toy/data"],
    "data": ["data", "~/toy/data", "--sequences=1", "--tokenizer=~/toy/gqa-tied", "--simulate=~/run", "--steps=4"],
    "reference": ["reference", "measure", "--model=~/toy/gqa-tied", *MEASURE, "--output=~/new/references.yaml"],
    "evaluate": ["evaluate", "--model=~/toy/gqa-tied", *MEASURE, "--output=~/new/losses.json"],
    "rank": ["rank", "--source=~/toy/gqa-tied", *MEASURE, "--output=~/new/scores"],
    "gates": ["gates", "~/toy/scores.safetensors", "~/toy/scores.safetensors", *TARGET],
    "export gates": ["export", "--gates=~/toy/scores.safetensors", "--source=~/toy/gqa-tied", *TARGET, NEW],
    "export": ["export", "--checkpoint=~/run/checkpoints/step=000012.ckpt", "--output=~/new/b"],
    "mend": ["mend", "~/toy/mha-untied", "--source=~/toy/mha-untied"],
    "fit": [
        "fit", "--config=~/run.yaml", "--model.pruning.initial_log_alpha=4.605170185988092",
        "--model.pruning.initial_gap=3", "--model.pruning.initial_scores=~/toy/scores.safetensors",
        "--data.mixture.proportions=~/run", "--data.remote.cache_directory=~/cache",
    ],
    "resume": ["fit", "--config=~/run.yaml", "--trainer.default_root_dir=~/run", "--trainer.max_steps=16",
               "--ckpt_path=~/run/checkpoints/step=000012.ckpt"],
    "validate": ["validate", "--config=~/run.yaml", "--ckpt_path=~/run/checkpoints/step=000012.ckpt"],
}  # fmt: skip


def test_the_home_directory_is_meant_everywhere(home, tmp_path):
    places = [tmp_path / name for name in LINES]
    for place in places:
        place.mkdir()
    ended = endings(
        list(zip(LINES.values(), places, strict=True)), tmp_path / "logs", environment={"HOME": str(home)}
    )
    for name, ending in zip(LINES, ended, strict=True):
        assert ending.code == 0, f"{name}: {ending.said}"
        assert ending.left == (), name
    assert not [path for path in home.rglob("*") if "~" in path.name]
    new = {path.name for path in (home / "new").iterdir()}
    assert new == {"data", "references.yaml", "losses.json", "scores", "scores.html", "a", "b"}
    assert (home / "yaml-run" / "checkpoints" / "step=000004.ckpt").is_file()
    assert (home / "run" / "checkpoints" / "step=000016.ckpt").is_file()
