"""Ids of texts: names of special tokens, and long documents in pieces."""

import json
import random

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from shear_lit.data.tokens import cuts
from shear_lit.data.tokens.encoder import Encoder
from tests.data.tokens import subjects
from tests.data.tokens.documents import KINDS, documents

NAMES = ("a</s>b", "</s>", "</s> x", " </s>", "x </s>y", "<|im_end|>", "</s></s>", "\n</s>\n")


def saved(tokenizer, tmp_path):
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    return file


def ids(file, text, **options):
    (found,) = Encoder(file, **{"split_special_tokens": True, **options}).encode([text])
    return None if found is None else found.tolist()


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    ranks = subjects.trained_ranks(documents(len(KINDS), length=300, seed=1), vocabulary=700)
    directory = tmp_path_factory.mktemp("byte-level") / "tokenizer"
    special = ["</s>", "<|im_end|>"]
    return subjects.write_byte_level(directory, ranks, subjects.CL100K, special=special) / "tokenizer.json"


@pytest.fixture
def joins_names(tmp_path):
    """A BPE without words whose pieces can be joined to the name of its special token."""
    characters = ["<", "/", "s", ">", "a", "b", "\u2581", "<unk>"]
    pieces = [*characters, "</", "s>", "</s>", "ab"]
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), ("a", "b")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.add_special_tokens(["</s>", "<unk>"])
    return saved(tokenizer, tmp_path)


def test_ids_come_in_the_order_of_the_texts(byte_level):
    texts = documents(600, length=100)
    plain = Tokenizer.from_file(str(byte_level))
    plain.encode_special_tokens = True
    found = list(Encoder(byte_level, split_special_tokens=True).encode(iter(texts)))
    assert [tokens.tolist() for tokens in found] == [plain.encode(text).ids for text in texts]
    assert {tokens.dtype for tokens in found} == {np.dtype(np.uint32)}


@pytest.mark.parametrize("text", NAMES)
def test_name_of_a_special_token_is_text_where_it_is_to_be_split(byte_level, text):
    ends = {Tokenizer.from_file(str(byte_level)).token_to_id(name) for name in ("</s>", "<|im_end|>")}
    assert not ends & set(ids(byte_level, text))
    assert ends & set(ids(byte_level, text, split_special_tokens=False))


def test_name_of_a_special_token_is_not_made_of_its_parts(joins_names):
    content = json.loads(joins_names.read_text())["model"]["vocab"]
    assert ids(joins_names, "a</s>b") == [content[piece] for piece in ("\u2581", "a", "</", "s>", "b")]


def test_switch_of_the_library_alone_would_make_it(joins_names):
    """The twin."""
    tokenizer = Tokenizer.from_file(str(joins_names))
    tokenizer.encode_special_tokens = True
    assert tokenizer.token_to_id("</s>") in tokenizer.encode("a</s>b").ids


def test_added_token_that_is_not_special_stays_one(byte_level, tmp_path):
    tokenizer = Tokenizer.from_file(str(byte_level))
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("<tool>", normalized=False)])
    file = saved(tokenizer, tmp_path)
    found = ids(file, "x    <tool></s>")
    assert tokenizer.token_to_id("    ") in found and tokenizer.token_to_id("<tool>") in found
    assert tokenizer.token_to_id("</s>") not in found


@pytest.mark.parametrize("kind", ["thai", "simplified", "code", "latin", "mixed"])
def test_long_document_in_pieces_has_the_ids_of_the_whole(byte_level, kind):
    text = KINDS[kind](random.Random(3), 6000)
    assert ids(byte_level, text, most_whole_bytes=2000) == ids(byte_level, text)


def test_cut_that_is_not_tried_would_change_ids(joins_names, monkeypatch):
    """The twin: without the window and the pairs, a cut falls into what belongs together."""
    monkeypatch.setattr(cuts.Cutter, "_changes_nothing", lambda *_: True)
    text = "ab " * 3000
    assert ids(joins_names, text, most_whole_bytes=2000) != ids(joins_names, text)


@pytest.mark.parametrize("text", ["x" * 5000, "1" * 5000, " " * 5000])
def test_long_document_that_nothing_tells_how_to_cut_has_no_ids(byte_level, text):
    found = list(
        Encoder(byte_level, split_special_tokens=True, most_whole_bytes=2000).encode(["a", text, "b"])
    )
    assert found[1] is None and len(found[0]) == len(found[2]) == 1


def test_tokens_that_reach_over_a_space_are_not_cut(tmp_path):
    """A piece that holds a letter and the space behind it: the ids agree in the window, and the pair says no."""
    pieces = ["<unk>", "a", "\u2581", "a\u2581", "b"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "\u2581")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    file = saved(tokenizer, tmp_path)
    assert ids(file, "a a " * 1000, most_whole_bytes=2000) is None
    assert ids(file, "a ab b " * 1000, most_whole_bytes=2000) == ids(file, "a ab b " * 1000)


def test_pre_tokenizer_that_counts_characters_is_not_cut(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(length=5)
    assert ids(saved(tokenizer, tmp_path), "word " * 1000, most_whole_bytes=2000) is None
