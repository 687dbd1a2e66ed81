"""Reference losses on disk."""

import math

import pytest
import yaml

from shear_lit.data.errors import DataError
from shear_lit.data.order.references import References, read_references, write_references
from shear_lit.data.prepared.manifest import TokenizerRecord
from shear_lit.data.tokens.tokenizer import is_same

REFERENCES = References(source="a model", tokenizer="f" * 64, losses={"a": 1.5, "b": 2.0})


def test_references_survive_writing_and_reading(tmp_path):
    path = tmp_path / "new" / "references.yaml"
    write_references(path, REFERENCES)
    assert read_references(path) == REFERENCES
    assert yaml.safe_load(path.read_text())["format"] == 1 and not list(path.parent.glob("*.tmp"))
    assert REFERENCES.for_domains(("b", "a"), "the data") == [2.0, 1.5]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"references=.*none\.yaml.*cannot be read"):
        read_references(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a: [",
        "- 1",
        "losses: {a: 1}",
        "{format: 1}",
        "{format: 1, losses: {a: x}}",
        "{format: 1, losses: {a: true}}",
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "references.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match="no file of reference losses"):
        read_references(path)


def test_losses_for_other_domains_are_refused():
    with pytest.raises(DataError, match=r"data\.mixture\.references=.*lacks c;.*has a besides"):
        REFERENCES.for_domains(("b", "c"), "the data")


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -1.0])
def test_impossible_losses_are_refused(loss):
    with pytest.raises(DataError, match="loss of 'a'"):
        References(source="", tokenizer="", losses={"a": loss}).for_domains(("a",), "the data")


def made_by(fingerprint):
    return TokenizerRecord(name="/nowhere", fingerprint=fingerprint, vocabulary=9, bos_id=0, eos_id=1)


def test_losses_of_another_tokenizer_are_refused():
    REFERENCES.check_tokenizer(made_by("f" * 64), is_same)
    References(losses={}).check_tokenizer(made_by("e" * 64), is_same)
    with pytest.raises(DataError, match="two tokenizers"):
        REFERENCES.check_tokenizer(made_by("e" * 64), is_same)


def test_losses_within_the_error_of_their_reference_are_named():
    references = References(losses={"a": 2.0, "b": 1.0}, errors={"a": 0.05, "b": 0.01})
    assert references.within_error({"a": 2.09, "b": 1.03}, {}) == ("a",)
    assert References(losses={"a": 2.0}).within_error({"a": 2.0}, {}) == ()
    # 1.96 * sqrt(0.05^2 + 0.12^2) = 0.2548; an error that is not a number adds nothing.
    assert references.within_error({"a": 2.25, "b": 1.03}, {"a": 0.12, "b": math.nan}) == ("a",)
    assert references.within_error({"a": 2.26}, {"a": 0.12}) == ()


def test_errors_are_of_all_domains_or_of_none(tmp_path):
    write_references(tmp_path / "r.yaml", References(losses={"a": 2.0, "b": 1.0}, errors={"a": 0.05}))
    with pytest.raises(DataError, match="one for each domain, or none"):
        read_references(tmp_path / "r.yaml")
