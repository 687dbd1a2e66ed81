"""Export, evaluate and reference as they are called: flags, help, and errors."""

import json

import pytest
from jsonargparse import auto_cli

from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.export import export
from shear_lit.commands.reference import COMMANDS
from tests import tiny

COMMAND_LINES = {"export": export, "evaluate": evaluate, "reference": COMMANDS}


def call(*arguments):
    return auto_cli(COMMAND_LINES, args=list(arguments), as_positional=False)


@pytest.mark.parametrize("command", [["export"], ["evaluate"], ["reference", "measure"]])
def test_help_describes_every_option(command, capsys):
    with pytest.raises(SystemExit):
        call(*command, "--help")
    text = capsys.readouterr().out
    options = [line for line in text.splitlines() if line.startswith("  --") and "--config" not in line]
    assert len(options) >= 4
    for number, line in enumerate(text.splitlines()):
        if line in options and "print_config" not in line:
            description = " ".join(text.splitlines()[number : number + 3])
            assert any(word.islower() and len(word) > 3 for word in description.split()[2:]), line


def test_export_runs_from_the_command_line(tmp_path):
    network = tiny.write_source(tmp_path / "source", tiny.config())
    known = tiny.facts(tiny.config(), tmp_path / "source")
    path = tiny.write_checkpoint(
        tmp_path / "a.ckpt", tiny.checkpoint(network, known, tiny.log_alpha(tiny.config()))
    )
    result = call(
        "export", "--checkpoint", str(path), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"
    )
    assert "equal bit for bit" in str(result)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_unknown_dtype_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("export", "--checkpoint", "a", "--output", "b", "--dtype", "int8")
    assert "bfloat16" in capsys.readouterr().err
