"""A small part of the matrix: tokenizers trained on the spot give the ids of the libraries they were made for.

``python -m tests.data.tokens.matrix`` asks more documents, and published vocabularies.
"""

import pytest

from tests.data.tokens import matrix, subjects
from tests.data.tokens.documents import KINDS, documents

FAMILIES = {
    "gpt2": (subjects.GPT2, {}),
    "gpt-neox": (subjects.GPT2, {"spaces": True}),
    "cl100k": (subjects.CL100K, {}),
    "o200k": (subjects.O200K, {}),
    "qwen": (subjects.QWEN, {"nfc": True}),
}


@pytest.fixture(scope="module")
def ranks():
    return subjects.trained_ranks(documents(len(KINDS) * 2, length=300, seed=1))


@pytest.fixture(scope="module")
def texts():
    return documents(60)


@pytest.fixture(scope="module")
def long():
    return documents(len(KINDS), length=3000, seed=2)[::2]


def assert_same(subject, texts, long, work):
    found = matrix.compare(subject, texts, long, work)
    assert (found.differing, found.broken) == (0, 0), found.first
    assert found.in_pieces > found.uncut


@pytest.mark.parametrize("family", FAMILIES)
def test_byte_level_tokenizer_gives_the_ids_of_tiktoken(family, ranks, texts, long, tmp_path):
    pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    pattern, options = FAMILIES[family]
    assert_same(
        subjects.byte_level_subject(tmp_path, family, ranks, pattern, **options), texts, long, tmp_path
    )


def test_file_wins_over_the_class_that_would_cut_otherwise(ranks, texts, tmp_path):
    pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    subject = subjects.byte_level_subject(tmp_path, "any", ranks, subjects.CL100K)
    for name in matrix.CLASSES:
        subjects.name_class(subject.source, name)
        assert matrix.compare(subject, texts[:30], [], tmp_path).differing == 0


def test_other_rules_of_cutting_are_seen(ranks, texts, tmp_path):
    """The twin: GPT-2's rules are not those of cl100k."""
    pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    subject = subjects.byte_level_subject(tmp_path, "any", ranks, subjects.CL100K)
    other = subject._replace(reference=subjects.of_tiktoken(ranks, subjects.GPT2))
    assert matrix.compare(other, texts, [], tmp_path).differing > 10


@pytest.fixture(scope="module", params=subjects.SENTENCEPIECE)
def model(request, tmp_path_factory):
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    directory = tmp_path_factory.mktemp("sentencepiece") / request.param
    options = subjects.SENTENCEPIECE[request.param]
    texts = documents(len(KINDS) * 4, length=300, seed=1)
    file = subjects.train_sentencepiece(directory, texts, vocab_size=1400, **options)
    (directory / "text.txt").unlink()
    return file


def test_sentencepiece_model_gives_the_ids_of_sentencepiece(model, texts, long, tmp_path):
    assert_same(subjects.sentencepiece_subject("any", model), texts, long, tmp_path)
    alone = subjects.sentencepiece_subject("any", model.parent)
    assert matrix.compare(alone, texts[:30], [], tmp_path).differing == 0
