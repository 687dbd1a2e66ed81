"""The examples in launch/ are shell, and every key that they and the documents give to a command exists.

``python -m tests.training.launches`` runs them.
"""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from torch.distributed import run as torchrun

from shear_lit.commands.fit import training_parser
from shear_lit.commands.parsing import all_keys, parser_of
from shear_lit.commands.table import COMMANDS
from tests.slurm import stand_ins

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
PREPARES = LAUNCH / "prepare.sbatch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
TEXTS = sorted([ROOT / "README.md", LAUNCH / "README.md", *SCRIPTS, *(ROOT / "configs").rglob("*.yaml")])
WITHOUT_KEYS = {"demo", "completion"}


@cache
def keys_of(command):
    """The keys of a command and of what it becomes with another word (``reference measure``)."""
    known = COMMANDS[command]
    if known.trains:
        return {*all_keys(training_parser(command))}
    return {
        key
        for each in (known, *known.variants.values())
        for key in all_keys(parser_of(command, each, each.load()))
    }


def commands_in(text):
    """Each ``shear-lit`` command of a text: its name and its keys; lines go on after a backslash."""
    whole = re.sub(r"\\\n#? *", " ", text)
    for line in whole.splitlines():
        for name, rest in re.findall(r"(?:shear-lit|-m shear_lit) ([a-z]+)([^`|#]*)", line):
            if name in COMMANDS:
                yield name, re.findall(r"--([A-Za-z_][\w.]*)", rest)


def unknown_keys(text):
    return [
        (name, key)
        for name, keys in commands_in(text)
        for key in keys
        if key not in keys_of(name) | {"config", "help"}
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_of_commands_exist(path):
    assert unknown_keys(path.read_text(encoding="utf-8")) == []


def test_commands_are_found_where_they_stand():
    for path in (script for script in SCRIPTS if script != PREPARES):
        found = [keys for name, keys in commands_in(path.read_text(encoding="utf-8")) if name == "fit"]
        assert len(found) == 1 and {"config", "ckpt_path", "trainer.num_nodes", "trainer.devices"} <= {
            *found[0]
        }
    assert len(list(commands_in((ROOT / "README.md").read_text(encoding="utf-8")))) > 5


@pytest.mark.parametrize(
    "text",
    [
        "shear-lit fit --config a.yaml --trainer.num_node 4",
        "#   shear-lit export --checkpoint a \\\n#       --outputs b",
        "exec torchrun -m shear_lit fit \\\n    --ckptpath=auto",
    ],
)
def test_key_that_does_not_exist_is_found(text):
    assert len(unknown_keys(text)) == 1


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(LAUNCH)))
def test_scripts_are_shell(path):
    found = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=20, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_torchrun_takes_its_options_and_its_variables():
    """The scripts set them by variables, which versions of torch without the options leave alone."""
    options = {option for action in torchrun.get_args_parser()._actions for option in action.option_strings}
    for path in (LAUNCH / "torchrun").glob("*.sh"):
        text = path.read_text(encoding="utf-8")
        own = re.findall(
            r"^    (--[a-z-]+)=", text.split("exec torchrun")[1].split("-m shear_lit")[0], re.MULTILINE
        )
        variables = re.findall(r"^export PET_([A-Z_]+)=", text, re.MULTILINE)
        assert len(own) == 6 and {*own} <= options
        assert {f"--{name.lower().replace('_', '-')}" for name in variables} <= options
        assert variables == ["SIGNALS_TO_HANDLE", "SHUTDOWN_TIMEOUT"]


def test_preparing_is_submitted_stage_by_stage_and_part_by_part(tmp_path):
    env = stand_ins(tmp_path / "bin", '#!/bin/bash\necho "$@" >> "$JOBS/calls"\n') | {"PARTS": "2"}
    command = ["bash", str(PREPARES), "a.yaml", "--output=/shared/my data"]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=True)
    assert found.stdout.splitlines() == [
        f"{stage}: job {101 + number}"
        for number, stage in enumerate(("tokenise", "select", "pack", "commit"))
    ]
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    both = [
        "tokenise --workers=1 --part=",
        "select --workers=1",
        "pack --workers=1 --part=",
        "commit --workers=1",
    ]
    stages = [
        f"{stage}{part}" for stage in both for part in (("2/2", "1/2") if stage.endswith("=") else ("",))
    ]
    assert calls == [f"prepare --config=a.yaml --stage={stage} --output=/shared/my data" for stage in stages]


def test_a_stage_that_fails_lets_no_other_begin(tmp_path):
    env = stand_ins(tmp_path / "bin", '#!/bin/bash\necho "$@" >> "$JOBS/calls"\nexit 1\n') | {"PARTS": "1"}
    found = subprocess.run(
        ["bash", str(PREPARES), "a.yaml"], env=env, capture_output=True, timeout=20, check=False
    )
    assert found.returncode and len((tmp_path / "bin" / "calls").read_text().splitlines()) == 1
