"""The help of a run fits two screens and leaves out no key; what a shell completes."""

import shutil
import subprocess
from dataclasses import fields

import pytest

from shear_lit import cli
from shear_lit.commands.table import COMMANDS
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.pruning.gate_settings import Draws, ExactGates, Fall
from shear_lit.pruning.settings import Pruning, RepairSettings
from shear_lit.theory.shape import Axis

SCREEN = 50
"""Lines of a terminal that is as high as it is wide."""


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_help_of_a_run_fits_two_screens(capsys, command):
    lines = said(capsys, command, "--help").splitlines()
    assert len(lines) <= 2 * SCREEN
    assert max(map(len, lines)) <= 120


def test_help_of_a_run_has_every_key_of_pruning_and_data(capsys):
    text = said(capsys, "fit", "--help")
    keys = {
        f"model.pruning.{field.name}"
        for field in fields(Pruning)
        if field.name not in ("target", "exact", "repair", "fall", "draws")
    }
    keys |= {f"model.pruning.target.{axis.value}" for axis in Axis}
    for group, settings in {"exact": ExactGates, "fall": Fall, "draws": Draws}.items():
        keys |= {f"model.pruning.{group}.{field.name}" for field in fields(settings)}
    keys |= {f"model.pruning.repair.{field.name}" for field in fields(RepairSettings)}
    keys |= {f"data.mixture.{field.name}" for field in fields(MixtureSettings)}
    keys |= {"data.directory", "data.remote.attempts", "checkpoint.keep", "trainer.max_steps", "ckpt_path"}
    assert not [key for key in sorted(keys) if f"  --{key} " not in text]
    assert "model.source                               (needed)" in text


def test_help_in_full_and_the_environment_are_behind_flags(capsys):
    short, whole = (said(capsys, "fit", flag) for flag in ("--help", "--help_all"))
    environment = said(capsys, "fit", "--help-environment")
    assert "--trainer.enable_model_summary" in whole and "enable_model_summary" not in short
    assert "SHEAR_FIT__MODEL__SOURCE" in environment
    assert "SHEAR_FIT__MODEL__SOURCE" not in whole + short


def test_a_key_of_the_environment_is_read(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHEAR_FIT__TRAINER__MAX_STEPS", "0")
    with pytest.raises(SystemExit):
        arguments = [word for word in toy.arguments("pretrain", tmp_path / "run") if "config" not in word]
        cli.main(
            [
                *arguments,
                "--data.mixture.rule=static",
                "--data.mixture.proportions={code: 1, law: 0, wiki: 0}",
            ]
        )
    assert "trainer.max_steps=0 would train nothing" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_shell_completes_commands_keys_and_choices(capsys, tmp_path):
    cli.main(["completion", "bash"])
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    asked = {
        "ra": "rank",
        "fit --model.pruning.target.h": "--model.pruning.target.hidden",
        "evaluate --dtype bf": "bfloat16",
        "reference me": "measure",
        "prepare --from": "--from_mds",
    }
    lines = [f"source {script}"]
    for words in asked:
        count = len(words.split())
        lines.append(
            f"COMP_WORDS=(shear-lit {words}); COMP_CWORD={count}; COMPREPLY=(); "
            "_shtab_shear_lit; echo ${COMPREPLY[@]}"
        )
    found = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for words, expected, got in zip(asked, asked.values(), found, strict=True):
        assert expected in got.split(), (words, got)


def test_every_command_is_in_the_list_and_can_be_loaded(capsys):
    cli.main(["--help"])
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in text and callable(command.load())
