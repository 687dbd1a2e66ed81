"""Tokenizers of every kind, and what identifies one."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, dynamic_module_utils

from shear_lit.data import tokenizer
from shear_lit.data.errors import DataError
from shear_lit.data.preparation.prepare import prepare
from shear_lit.data.tokenizer import load_tokenizer, tokenizer_fingerprint_of
from tests import tiny

TEXTS = [
    "Plain words, and  two spaces.",
    "  leading\n\tdef f(x):\n        return {x: 'y'}   # trailing  \n\n\n",
    "Zwölf, 中文, 🦊 and \u2581 itself",
    "x" * 300,
]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def sentencepiece_model(request, tmp_path_factory):
    """A small model like LLaMA's (BPE), or like T5's, which drops extra white space."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    text = folder / "text.txt"
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    text.write_text("\n".join(line for line in lines if line.strip()), encoding="utf-8")
    llama = {"byte_fallback": True, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / request.param),
        model_type=request.param,
        vocab_size=400 if request.param == "bpe" else 150,
        allow_whitespace_only_pieces=request.param == "bpe",
        minloglevel=9,
        **(llama if request.param == "bpe" else {}),
    )
    return str(folder / f"{request.param}.model")


def test_a_sentencepiece_model_gives_the_tokens_of_sentencepiece(sentencepiece_model):
    from sentencepiece import SentencePieceProcessor

    processor, tokenizer = (
        SentencePieceProcessor(model_file=sentencepiece_model),
        load_tokenizer(sentencepiece_model),
    )
    for text in [*TEXTS, Path(__file__).read_text(encoding="utf-8")]:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == processor.encode(text)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (processor.bos_id(), processor.eos_id())


@pytest.mark.parametrize(("part", "broken"), [("_merges", lambda *_: []), ("_SPACE", "_")])
def test_a_conversion_that_gives_other_tokens_is_refused(sentencepiece_model, monkeypatch, part, broken):
    """The twin: without the merges, or with another sign for a space."""
    if part == "_merges" and sentencepiece_model.endswith("unigram.model"):
        return  # such a model has none
    monkeypatch.setattr(f"shear_lit.data.tokenizer.{part}", broken)
    with pytest.raises(DataError, match="it gives other tokens than SentencePiece"):
        load_tokenizer(sentencepiece_model)


@pytest.mark.assets
def test_llamas_own_model_gives_the_tokens_of_sentencepiece():
    sentencepiece = pytest.importorskip("sentencepiece")
    path = os.environ.get("LLAMA_TOKENIZER_MODEL", "")
    if not Path(path).is_file():
        pytest.skip("LLAMA_TOKENIZER_MODEL names no file: LLaMA's tokenizer.model may not be redistributed")
    tokenizer = load_tokenizer(path)
    assert tokenizer("Hello this is a test", add_special_tokens=False)["input_ids"] == [
        15043,
        445,
        338,
        263,
        1243,
    ]
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    for text in [*TEXTS, Path(__file__).read_text(encoding="utf-8")]:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == processor.encode(text)


def test_data_is_prepared_with_a_sentencepiece_model(sentencepiece_model, settings, write_jsonl):
    options = settings({"web": write_jsonl("web.jsonl", [f"{t} {n}" for n in range(40) for t in TEXTS[:3]])})
    manifest = prepare(type(options)(**{**vars(options), "tokenizer": sentencepiece_model}))
    assert manifest.domains["web"].documents == 120 and manifest.tokenizer.eos_id == 2


def test_a_file_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("sentencepiece")
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(DataError, match=r"tokenizer=.*is no SentencePiece model"):
        load_tokenizer(str(tmp_path / "tokenizer.model"))


@pytest.fixture
def tokenizer_with_code(tmp_path):
    """A tokenizer directory that names a class of its own, whose module leaves a file when it is run."""
    tiny.tokenizer().save_pretrained(tmp_path / "hostile")
    config = tmp_path / "hostile" / "tokenizer_config.json"
    entries = json.loads(config.read_text())
    entries |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    config.write_text(json.dumps(entries))
    (tmp_path / "hostile" / "mine.py").write_text(
        "from pathlib import Path\nfrom transformers import PreTrainedTokenizerFast\n"
        "class Mine(PreTrainedTokenizerFast):\n    pass\n"  # its own: transformers marks the class that it loads
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
    )
    return tmp_path / "hostile"


@pytest.mark.parametrize("read", [load_tokenizer, tokenizer_fingerprint_of], ids=lambda f: f.__name__)
def test_code_beside_a_tokenizer_is_neither_run_nor_asked_about(
    tokenizer_with_code, tmp_path, monkeypatch, read
):
    """On a terminal, where someone would say yes."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "y")
    with contextlib.suppress(DataError):  # refused, or read by a class that transformers has
        read(str(tokenizer_with_code))
    assert asked == [] and not (tmp_path / "ran").exists()


def test_code_beside_a_tokenizer_would_run_where_it_is_asked_for(tokenizer_with_code, tmp_path, monkeypatch):
    """The twin: without the refusal, a yes runs it (from a copy in a cache, which is put elsewhere here)."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    monkeypatch.setattr(tokenizer, "_from_directory", lambda path: AutoTokenizer.from_pretrained(path))
    load_tokenizer(str(tokenizer_with_code))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("read", [load_tokenizer, tokenizer_fingerprint_of], ids=lambda f: f.__name__)
def test_a_file_of_a_tokenizer_that_is_a_link_out_of_its_directory_is_refused(tmp_path, read, name):
    tiny.tokenizer().save_pretrained(tmp_path / "own")
    (tmp_path / "own" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "own" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link that leads out of the directory"):
        read(str(tmp_path / "own"))
