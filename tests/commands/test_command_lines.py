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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model: [", "is no YAML in UTF-8"),
        (b"model: x\nmodel: y\n", "the key 'model' is there twice"),
        (b"- model\n", "holds ['model'], and keys with values are expected"),
        (b"m\xfcdel: x\n", "is no YAML in UTF-8"),
        (b"model: !!python/object/apply:os.getcwd []\n", "is no YAML in UTF-8"),
        (
            b"a: &a [x, x]\n"
            + b"".join(b"%c: &%c [*%c, *%c]\n" % (i + 1, i + 1, i, i) for i in range(97, 122)),
            "aliases",
        ),
        (b"modle: x\n", "run.yaml: modle is no key. Did you mean model?"),
        (
            b"micro_batch: many\n",
            "run.yaml: micro_batch='many': a whole number above 0 is expected, such as 4",
        ),
        (b"micro_batch: 0\n", "run.yaml: micro_batch=0: a whole number above 0 is expected, such as 4"),
        (b"micro_batch: true\n", "run.yaml: micro_batch=True: a whole number above 0"),
        (b"dtype: int8\n", "run.yaml: dtype='int8': one of float32"),
        (b"source: x\n", "run.yaml: source is now called model"),
        (b"model: ''\n", "run.yaml: model has no value"),
        (b"remote: {attempts: 0}\n", "run.yaml: remote.attempts=0: a whole number above 0"),
        (b"remote: {attempt: 1}\n", "run.yaml: remote.attempt is no key. Did you mean remote.attempts?"),
    ],
    ids=lambda part: part[:20] if isinstance(part, bytes) else "",
)
def test_a_mistake_in_a_config_file_is_said_with_the_file(tmp_path, capsys, content, said):
    (tmp_path / "run.yaml").write_bytes(content)
    assert said in refused(capsys, "evaluate", f"--config={tmp_path / 'run.yaml'}")


def test_what_follows_a_config_file_wins(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("model: /nowhere\ndata: /neither\nmicro_batch: 3\n")
    assert "data='/elsewhere'" in refused(
        capsys, "evaluate", f"--config={tmp_path / 'run.yaml'}", "--data=/elsewhere"
    )
