"""An export is read by transformers with the tokens that it was trained on."""

import json

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from shear_lit.commands.export import export
from shear_lit.evaluation import tokenizer as module
from shear_lit.evaluation.tokenizer import TokenizerError, keep_tokenizer

TEXT = "in 1234 and 567, a pig"


def cut_otherwise(directory):
    """A tokenizer whose file cuts words at every letter p, and whose config names a class that does not."""
    file, config = directory / "tokenizer.json", directory / "tokenizer_config.json"
    backend = Tokenizer.from_file(str(file))
    cuts = [pre_tokenizers.Split("p", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    backend.save(str(file))
    entries = {**json.loads(config.read_text()), "tokenizer_class": "GPT2TokenizerFast"}
    config.write_text(json.dumps(entries))


@pytest.fixture
def directory(toy, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((toy.source() / name).read_bytes())
    cut_otherwise(tmp_path)
    return tmp_path


def ids(directory):
    return Tokenizer.from_file(str(directory / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids


def test_class_that_cuts_text_otherwise_is_replaced(directory):
    assert AutoTokenizer.from_pretrained(directory).encode(TEXT, add_special_tokens=False) != ids(directory)
    keep_tokenizer(directory)
    assert AutoTokenizer.from_pretrained(directory).encode(TEXT, add_special_tokens=False) == ids(directory)


def test_class_of_its_own_is_replaced_and_its_code_not_asked_for(directory):
    config = directory / "tokenizer_config.json"
    entries = {**json.loads(config.read_text()), "tokenizer_class": "Mine"}
    config.write_text(json.dumps({**entries, "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}))
    keep_tokenizer(directory)
    read = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    assert read.encode(TEXT, add_special_tokens=False) == ids(directory)


def test_tokenizer_that_is_read_rightly_stays_as_it_is(toy, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((toy.source() / name).read_bytes())
    keep_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (toy.source() / name).read_bytes()


def test_tokenizer_that_no_class_reads_rightly_is_refused(directory, monkeypatch):
    monkeypatch.setattr(module, "_reads_the_file", lambda directory: False)
    with pytest.raises(TokenizerError, match=r"with which the data was made, .*GPT2TokenizerFast"):
        keep_tokenizer(directory)


def test_export_keeps_the_tokenizer_of_its_source(toy, tmp_path, whole):
    folder, _ = whole("pretrain")
    source = tmp_path / "source"
    source.mkdir()
    for path in toy.source().iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    cut_otherwise(source)
    out = tmp_path / "out"
    export(str(folder / "checkpoints" / "step=000012.ckpt"), str(out), source=str(source))
    assert (
        AutoTokenizer.from_pretrained(out).encode(TEXT, add_special_tokens=False) == ids(out) == ids(source)
    )
