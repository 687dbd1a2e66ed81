"""Tokenizers of every kind, and what identifies one."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, dynamic_module_utils

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.tokens import conversions
from shear_lit.data.tokens.conversions import from_sentencepiece
from shear_lit.data.tokens.tokenizer import check_made_by, is_same, load_tokenizer, tokenizer_of
from tests import tiny
from tests.data.tokens import subjects

TEXTS = [
    "Plain words, and  two spaces.",
    "  leading\n\tdef f(x):\n        return {x: 'y'}   # trailing  \n\n\n",
    "Zwölf, 中文, 🦊 and \u2581 itself",
    "x" * 300,
]


CODE = Path(json.__file__).read_text(encoding="utf-8")


def ids(tokenizer, text):
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def sentencepiece_model(request, tmp_path_factory):
    """A small model like LLaMA's (BPE), or a Unigram model that drops extra white space."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    text = folder / "text.txt"
    lines = CODE.splitlines()
    text.write_text("\n".join(line for line in lines if line.strip()), encoding="utf-8")
    llama = {"byte_fallback": True, "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / request.param),
        model_type=request.param,
        vocab_size=400 if request.param == "bpe" else 150,
        allow_whitespace_only_pieces=request.param == "bpe",
        normalization_rule_name="identity",
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
    for text in [*TEXTS, CODE]:
        assert ids(tokenizer, text) == processor.encode(text)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (processor.bos_id(), processor.eos_id())


@pytest.mark.parametrize(("part", "broken"), [("_merges", lambda *_: []), ("_SPACE", "_")])
def test_a_conversion_that_gives_other_tokens_is_refused(sentencepiece_model, monkeypatch, part, broken):
    """The twin: without the merges, or with another sign for a space."""
    if part == "_merges" and sentencepiece_model.endswith("unigram.model"):
        return  # such a model has none
    monkeypatch.setattr(f"shear_lit.data.tokens.conversions.{part}", broken)
    with pytest.raises(DataError, match="it gives other tokens than SentencePiece"):
        load_tokenizer(sentencepiece_model)


@pytest.mark.assets
def test_llamas_own_model_gives_the_tokens_of_sentencepiece():
    sentencepiece = pytest.importorskip("sentencepiece")
    path = os.environ.get("LLAMA_TOKENIZER_MODEL", "")
    if not Path(path).is_file():
        pytest.skip("LLAMA_TOKENIZER_MODEL names no file: LLaMA's tokenizer.model may not be redistributed")
    tokenizer = load_tokenizer(path)
    assert ids(tokenizer, "Hello this is a test") == [
        15043,
        445,
        338,
        263,
        1243,
    ]
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    for text in [*TEXTS, CODE]:
        assert ids(tokenizer, text) == processor.encode(text)


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


@pytest.mark.parametrize("read", [load_tokenizer, tokenizer_of], ids=lambda f: f.__name__)
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
    monkeypatch.setattr(conversions, "in_transformers", lambda name: AutoTokenizer.from_pretrained(name))
    conversions.from_transformers(str(tokenizer_with_code))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("read", [load_tokenizer, tokenizer_of], ids=lambda f: f.__name__)
def test_a_file_of_a_tokenizer_that_is_a_link_out_of_its_directory_is_refused(tmp_path, read, name):
    tiny.tokenizer().save_pretrained(tmp_path / "own")
    (tmp_path / "own" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "own" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link that leads out of the directory"):
        read(str(tmp_path / "own"))


# What a directory holds, and what transformers makes of it


@pytest.fixture
def cuts_numbers(tmp_path):
    """A ``tokenizer.json`` that cuts numbers into digits, in a directory whose config names no class."""
    fast = Tokenizer(models.BPE())
    bytes_, digits = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=True),
    )
    fast.pre_tokenizer, fast.decoder = bytes_, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], show_progress=False)
    fast.train_from_iterator([CODE, *["1234 567 890 12 34 in and"] * 50], trainer)
    fast.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    directory = tmp_path / "digits"
    PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>").save_pretrained(
        directory
    )
    return directory


def name_class(directory, name):
    config = directory / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": name}))


def test_file_of_a_tokenizer_wins_over_the_class_that_its_config_names(cuts_numbers):
    """transformers takes GPT-2's rules of cutting words for a tokenizer that is called one, and says nothing."""
    before = load_tokenizer(str(cuts_numbers))
    name_class(cuts_numbers, "GPT2TokenizerFast")
    text = "in 1234 and 567"
    assert AutoTokenizer.from_pretrained(cuts_numbers).encode(text, add_special_tokens=False) != ids(
        before, text
    )
    after = load_tokenizer(str(cuts_numbers))
    assert ids(after, text) == ids(before, text) and after.fingerprint == before.fingerprint


def test_data_of_an_earlier_version_knows_its_tokenizer(cuts_numbers):
    """It holds the hash of the form that transformers gave it."""
    content = json.loads(AutoTokenizer.from_pretrained(cuts_numbers).backend_tokenizer.to_str())
    for transient in ("truncation", "padding"):
        content.pop(transient)
    earlier = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    found = load_tokenizer(str(cuts_numbers))
    assert found.is_of(earlier) and found.is_of(found.fingerprint) and not found.is_of("0" * 64)
    record = found.record()
    assert is_same(record, earlier) and not is_same(record, "0" * 64)


def test_model_of_another_tokenizer_is_refused(cuts_numbers, toy):
    manifest = read_manifest(toy.data)
    check_made_by(manifest, str(toy.source()))
    with pytest.raises(DataError, match=r"tokenised by .*, the model's tokenizer .* is another one"):
        check_made_by(manifest, str(cuts_numbers))


def test_two_serialisations_of_one_tokenizer_have_one_fingerprint(cuts_numbers, tmp_path):
    shutil.copytree(cuts_numbers, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    content["post_processor"] = None
    file.write_text(json.dumps(content, indent=7))
    assert (
        load_tokenizer(str(tmp_path / "other")).fingerprint == load_tokenizer(str(cuts_numbers)).fingerprint
    )


@pytest.mark.parametrize("change", ["cuts otherwise", "another end", "a token more"])
def test_tokenizer_that_does_something_else_has_another_fingerprint(cuts_numbers, change):
    before = load_tokenizer(str(cuts_numbers)).fingerprint
    file, config = cuts_numbers / "tokenizer.json", cuts_numbers / "tokenizer_config.json"
    content, settings = json.loads(file.read_text()), json.loads(config.read_text())
    if change == "cuts otherwise":
        content["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    elif change == "another end":
        settings["eos_token"] = "<s>"
    else:
        content["added_tokens"].append({**content["added_tokens"][0], "id": 999, "content": "<more>"})
    file.write_text(json.dumps(content))
    config.write_text(json.dumps(settings))
    assert load_tokenizer(str(cuts_numbers)).fingerprint != before


def test_directory_with_a_sentencepiece_model_is_read_as_the_file_is(sentencepiece_model, tmp_path):
    from sentencepiece import SentencePieceProcessor

    shutil.copyfile(sentencepiece_model, tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    found, processor = load_tokenizer(str(tmp_path)), SentencePieceProcessor(model_file=sentencepiece_model)
    for text in [*TEXTS, CODE]:
        assert ids(found, text) == processor.encode(text)
    assert found.fingerprint == load_tokenizer(sentencepiece_model).fingerprint


def test_tokens_that_a_class_gave_are_not_taken_for_those_of_the_file(cuts_numbers):
    """An earlier version prepared by the rules of the class: other tokens, to which none of the file's may be added."""
    name_class(cuts_numbers, "GPT2TokenizerFast")
    content = json.loads(AutoTokenizer.from_pretrained(cuts_numbers).backend_tokenizer.to_str())
    for transient in ("truncation", "padding"):
        content.pop(transient)
    earlier = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert not load_tokenizer(str(cuts_numbers)).is_of(earlier)


@pytest.mark.parametrize(
    ("name", "text"), [("PreTrainedTokenizerFast", None), ("GPT2TokenizerFast", "<|endoftext|>")]
)
def test_special_tokens_that_a_class_knows_are_asked_of_it(cuts_numbers, name, text):
    """A config that names no end of text leaves it to the class; how the text is cut is the file's all the same."""
    before = load_tokenizer(str(cuts_numbers))
    config = cuts_numbers / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    del settings["eos_token"], settings["bos_token"]
    config.write_text(json.dumps(settings))
    name_class(cuts_numbers, name)
    found = load_tokenizer(str(cuts_numbers))
    assert found.eos_id == (None if text is None else found.backend.token_to_id(text))
    assert found.eos_id == AutoTokenizer.from_pretrained(cuts_numbers).eos_token_id
    assert ids(found, "in 1234 and 567") == ids(before, "in 1234 and 567")


def test_data_of_an_earlier_version_knows_a_sentencepiece_model(sentencepiece_model):
    """The hash is of the converted model with its special tokens, as transformers wrote it."""
    backend, special = from_sentencepiece(Path(sentencepiece_model))
    content = json.loads(backend.to_str())
    content["added_tokens"] = []
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **special)
    written = json.loads(fast.backend_tokenizer.to_str())
    for transient in ("truncation", "padding"):
        written.pop(transient)
    earlier = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()
    assert load_tokenizer(sentencepiece_model).is_of(earlier)


def test_reading_a_tokenizer_needs_neither_torch_nor_transformers(cuts_numbers):
    code = (
        "import sys; from shear_lit.data.tokens.tokenizer import load_tokenizer\n"
        "load_tokenizer(sys.argv[1]).fingerprint\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(cuts_numbers)], check=True)


def test_tokenizer_that_is_not_on_this_machine_is_not_asked_of_the_hub(cuts_numbers, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *name, **_: asked.append(name))
    monkeypatch.setattr(conversions, "in_transformers", lambda name: asked.append(name))
    record = replace(load_tokenizer(str(cuts_numbers)).record(), name="organisation/model")
    assert not is_same(record, "0" * 64) and is_same(record, record.fingerprint) and asked == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "changes characters before it cuts"),
        ({"user_defined_symbols": ["<sep>"]}, "has user-defined symbols"),
        ({"treat_whitespace_as_suffix": True}, "writes a space behind each word"),
        ({"model_type": "unigram", "byte_fallback": True}, "is a Unigram model with byte_fallback"),
        ({"model_type": "char"}, "is neither a BPE nor a Unigram model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sentencepiece_model_without_an_exact_counterpart_is_refused(tmp_path, options, reason):
    pytest.importorskip("sentencepiece")
    options = {"model_type": "bpe", "normalization_rule_name": "identity", **options}
    model = subjects.train_sentencepiece(tmp_path / "m", [CODE], vocab_size=400, **options)
    with pytest.raises(DataError, match=reason):
        load_tokenizer(str(model))
