"""Commands as they are called: flags, help, and errors."""

import json

import pytest

from shear_lit import cli
from tests import tiny


@pytest.mark.parametrize("command", [["export"], ["evaluate"], ["reference", "measure"], ["rank"], ["gates"]])
def test_help_describes_every_option(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    text = capsys.readouterr().out
    options = [line for line in text.splitlines() if line.startswith("  --") and "--config" not in line]
    assert len(options) >= 4
    for number, line in enumerate(text.splitlines()):
        if line in options and "print_config" not in line:
            description = " ".join(text.splitlines()[number : number + 3])
            assert any(word.islower() and len(word) > 3 for word in description.split()[2:]), line


def test_export_runs_from_the_command_line(tmp_path, capsys):
    network = tiny.write_source(tmp_path / "source", tiny.config())
    known = tiny.facts(tiny.config(), tmp_path / "source")
    path = tiny.write_checkpoint(
        tmp_path / "a.ckpt", tiny.checkpoint(network, known, tiny.log_alpha(tiny.config()))
    )
    output = tmp_path / "out"
    cli.main(["export", "--checkpoint", str(path), "--output", str(output), "--dtype", "bfloat16"])
    assert "equal bit for bit" in capsys.readouterr().out
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_unknown_dtype_is_refused_with_those_that_there_are(capsys):
    said = refused(capsys, "export", "--checkpoint", "a", "--output", "b", "--dtype", "int8")
    assert "dtype='int8': one of source, float32, bfloat16, float16 is expected" in said


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["rank", "--source=a", "--out=b"], "out is now called output"),
        (["reference", "measure", "--source=a"], "source is now called model"),
        (["evaluate", "--source", "a"], "source is now called model"),
        (["rank", "--model=a"], "model is now called source"),
    ],
)
def test_a_word_of_an_earlier_version_is_answered_with_the_new_one(capsys, words, new):
    assert new in refused(capsys, *words)


def test_reference_without_its_word_is_told_it(capsys):
    assert "Use `shear-lit reference measure`" in refused(capsys, "reference", "--model=a")
    assert "'measured' is none of its words" in refused(capsys, "reference", "measured")


def test_what_is_missing_is_named_with_its_meaning(capsys):
    said = refused(capsys, "evaluate", "--model=a")
    assert "data is missing. Directory that `shear-lit prepare` wrote" in said and "Use --data VALUE" in said
