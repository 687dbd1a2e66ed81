"""Which tokens write in a script other than the Latin one, in vocabularies of both usual kinds."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from shear_lit.data.tokens.scripts import other_scripts
from shear_lit.data.tokens.tokenizer import load_tokenizer

LATIN = ["the", "é", "Ǆ", "µ", "ª", "x1", "12", "+=", "...", "“", "́"]
BETWEEN = [",", ".", "\n", ", "]
SCRIPTS = {
    "CYRILLIC": ["да", " нет", "ж", "-я", "Ж", "и", "й", "ё"],
    "GREEK": ["δ", "βγ"],
    "CJK": ["中", "文"],
    "DEVANAGARI": ["ा"],
}
WORDS = [text for texts in SCRIPTS.values() for text in texts]
PARTS = [b"\xd0", b"\xe4\xb8", b"\x8e"]
SPECIAL = "<ж>"


def byte_level(folder):
    to_unicode = dict(zip(range(256), bytes_as_characters(), strict=True))
    pieces = [text.encode() for text in (*LATIN, *BETWEEN, " ", *WORDS)] + PARTS
    vocabulary = {"".join(to_unicode[byte] for byte in piece): index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return saved(tokenizer, folder)


def sentencepiece(folder):
    pieces = ["<unk>", "\u2581", *LATIN, *BETWEEN, *WORDS]
    pieces = [piece.replace(" ", "\u2581") for piece in pieces] + ["<0xD0>", "<0xE4>", "<0x8E>", "<0x41>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return saved(tokenizer, folder)


def bytes_as_characters():
    """The characters that byte-level tokens are written with, by byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def saved(tokenizer, folder):
    tokenizer.add_special_tokens([AddedToken(SPECIAL, special=True)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return load_tokenizer(str(folder))


@pytest.mark.parametrize("kind", [byte_level, sentencepiece])
def test_tokens_begin_a_text_by_their_scripts_and_go_on_with_these_and_what_is_between_words(kind, tmp_path):
    tokenizer = kind(tmp_path)
    ids = {index: token for token, index in tokenizer.backend.get_vocab().items() if token != SPECIAL}
    size = len(ids) + 10  # the model has more rows than there are tokens
    found = other_scripts(tokenizer, size)
    texts = {index: tokenizer.backend.decode([index]).strip() for index in ids}
    scripts = {text.strip(): script for script, texts in SCRIPTS.items() for text in texts}
    scripts["\ufffd"] = "part of a character"
    sizes = {script: len(texts) for script, texts in SCRIPTS.items()} | {"part of a character": 3}
    expected, total = np.zeros(size), sum(number**0.3 for number in sizes.values())
    for index, text in texts.items():
        if text in scripts:
            expected[index] = sizes[scripts[text]] ** 0.3 / sizes[scripts[text]] / total
    assert (expected > 0).sum() == sum(sizes.values())
    np.testing.assert_allclose(found.begins, expected, rtol=1e-12)
    written = {texts[index] for index in np.flatnonzero(found.writes)}
    assert written == {*scripts, "", ",", "."}


def test_tokens_beyond_the_vocabulary_are_left_alone(tmp_path):
    tokenizer = byte_level(tmp_path)
    whole, part = other_scripts(tokenizer, 40), other_scripts(tokenizer, 18)
    assert len(part.begins) == len(part.writes) == 18
    np.testing.assert_array_equal(part.writes, whole.writes[:18])
    np.testing.assert_allclose(part.begins.sum(), 1)


def test_a_vocabulary_of_latin_letters_has_no_other_scripts(tmp_path):
    assert other_scripts(byte_level(tmp_path), len(LATIN) + len(BETWEEN)) is None
