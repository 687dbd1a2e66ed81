"""The start is light: help and refusals come without torch, and commands that need no Trainer without lightning."""

import subprocess
import sys

import pytest

from shear_lit.commands.table import COMMANDS

HEAVY = ("torch", "lightning", "transformers", "litdata", "torchvision", "tensorboard", "botocore")
_LOADED = """
import sys
from shear_lit import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as left:
    assert left.code in (0, 2), left.code
print("loaded:", *(name for name in {heavy} if name in sys.modules))
"""


def loaded(*arguments, heavy=HEAVY):
    """Which of the heavy packages a command has imported when it is through."""
    code = _LOADED.format(heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("loaded:").split()


LIGHT = [
    ["--help"],
    ["prunee"],
    *([name, "--help"] for name, command in COMMANDS.items() if not command.trains),
    ["prepare", "--check=x", "--help"],
    ["prepare", "--from-mds=x", "--help"],
    ["evaluate", "--modle=x"],
    ["rank", "--source=x", "--output=/dev"],
    ["export", "--output=/dev"],
]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_help_and_refusals_come_without_torch(arguments):
    assert loaded(*arguments) == []


@pytest.mark.parametrize("command", ["data", "check"])
def test_looking_at_data_needs_no_lightning(toy, command):
    arguments = ["data", toy.data] if command == "data" else ["prepare", "--check", toy.data]
    found = set(loaded(*arguments, heavy=(*HEAVY, "numpy")))
    assert not {"lightning", "torchvision", "tensorboard", "botocore"} & found
    assert ("torch" in found) == (command == "data") and "numpy" in found  # what is imported is seen


def test_preparing_needs_neither_lightning_nor_transformers(toy, tmp_path):
    """Neither in the process that was started, nor in those that tokenise."""
    flags = [f"--domains.law={toy.root / 'law.jsonl'}", f"--tokenizer={toy.source()}", "--sequence_length=24"]
    found = set(loaded("prepare", *flags, f"--output={tmp_path / 'out'}", "--workers=1"))
    assert not {"lightning", "transformers", "torchvision", "torch", "litdata", "botocore"} & found


def test_a_report_needs_no_model(tmp_path):
    """Of a run that has written something; nothing of it is computed again."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").write_text("step,name,value\n0,loss/language,9.0\n1,loss/language,8.0\n")
    found = set(loaded("report", run, f"--output={tmp_path / 'page.html'}"))
    assert (tmp_path / "page.html").exists()
    assert not {"lightning", "transformers", "torchvision", "tensorboard", "litdata", "botocore"} & found
