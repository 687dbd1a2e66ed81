"""The command ``prepare``: one function, from flags and from a file."""

import json

import pytest
import yaml
from jsonargparse import auto_cli, set_parsing_settings

from shear_lit.commands.prepare import prepare
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.reporting import summary


@pytest.fixture(autouse=True, scope="module")
def docstrings():
    set_parsing_settings(docstring_parse_attribute_docstrings=True)


def run(*arguments):
    return auto_cli({"prepare": prepare}, args=["prepare", *arguments], as_positional=False)


def test_flags_and_a_config_file_make_the_same_data(tokenizer_directory, tmp_path):
    text = tmp_path / "web.jsonl"
    text.write_text("\n".join(json.dumps({"body": f"text {n} of many"}) for n in range(300)))
    config = tmp_path / "config.yaml"
    common = {"sequence_length": 8, "text_field": "body", "tokenizer": str(tokenizer_directory)}
    config.write_text(
        yaml.safe_dump(common | {"domains": {"web": [str(text)]}, "output": str(tmp_path / "one")})
    )
    run("--config", str(config), "--shares.validation", "0.1", "--shares.pretrain", "0.7")
    flags = [f"--{name}={value}" for name, value in common.items()]
    flags += [
        f"--domains.web={text}",
        f"--output={tmp_path / 'two'}",
        "--shares.validation=.1",
        "--shares.pretrain=.7",
    ]
    run(*flags)
    first, second = read_manifest(tmp_path / "one"), read_manifest(tmp_path / "two")
    assert first == second and first.domains["web"].documents == 300
    assert "validation" in summary(first) and "web" in summary(first)


def test_help_describes_every_option(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "Text by domain",
        "Tokens per packed sequence",
        "ends with the tokenizer's EOS",
        "Fraction for",
    ):
        assert words in text
