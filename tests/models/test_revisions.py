"""A model of the hub is what it was at one commit, which its name says."""

import json

import pytest
from huggingface_hub import constants

from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.data.tokens.tokenizer import load_tokenizer, tokenizer_of
from shear_lit.disk.names import split_revision
from shear_lit.models.huggingface import SourceError, read_config, source_fingerprint
from shear_lit.models.source_files import pinned
from shear_lit.ranking.scores import read_scores
from shear_lit.theory.shape import TargetShape
from tests import tiny
from tests.hub import FIRST, NAME, SECOND, publish


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model with two commits, of which the first is the tag v1 and the second the newest."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for commit, refs, position in ((FIRST, ("main", "v1"), 64), (SECOND, ("main",), 128)):
        settings = tiny.config()
        settings.max_position_embeddings = position
        tiny.write_source(tmp_path / commit, settings)
        (tmp_path / commit / "modeling_custom.py").unlink()
        publish(tmp_path / "hub", tmp_path / commit, commit, refs=refs)
    return tmp_path


def positions(source):
    return read_config(source).max_position_embeddings


def test_name_with_a_revision_is_read_at_it(hub):
    assert [positions(name) for name in (NAME, f"{NAME}@v1", f"{NAME}@{FIRST}", f"{NAME}@{SECOND}")] == [
        128,
        64,
        64,
        128,
    ]
    assert (
        source_fingerprint(f"{NAME}@v1") == source_fingerprint(str(hub / FIRST)) != source_fingerprint(NAME)
    )
    assert tokenizer_of(f"{NAME}@v1").fingerprint == tokenizer_of(str(hub / FIRST)).fingerprint


def test_tokenizer_is_that_of_the_revision(hub):
    file = hub / FIRST / "tokenizer.json"
    (hub / "other").mkdir()
    for path in (hub / FIRST).iterdir():
        (hub / "other" / path.name).write_bytes(path.read_bytes())
    (hub / "other" / "tokenizer.json").write_text(file.read_text().replace('"w7"', '"other"'))
    publish(hub / "hub", hub / "other", "3" * 40, refs=("v3",))
    assert tokenizer_of(f"{NAME}@v3").fingerprint != tokenizer_of(f"{NAME}@v1").fingerprint
    # As `prepare` loads it.
    assert load_tokenizer(f"{NAME}@v3").fingerprint == tokenizer_of(str(hub / "other")).fingerprint


def test_scores_are_of_a_commit_which_is_cut_later(hub):
    scores = hub / "scores.safetensors"
    rank(f"{NAME}@v1", str(scores), criterion="weight")
    assert read_scores(str(scores)).origin.source == f"{NAME}@{FIRST}"
    export(gates=str(scores), output=str(hub / "out"), target=TargetShape(layers=2))
    assert positions(str(hub / "out")) == 64
    assert json.loads((hub / "out" / "recipe.json").read_text())["source"] == f"{NAME}@{FIRST}"


def test_what_is_read_is_named_by_its_commit(hub):
    assert pinned(NAME) == pinned(NAME, "main") == f"{NAME}@{SECOND}"
    assert pinned(NAME, "v1") == pinned(f"{NAME}@v1") == pinned(f"{NAME}@{FIRST}") == f"{NAME}@{FIRST}"
    assert pinned(str(hub / FIRST)) == str(hub / FIRST)


def test_revision_that_has_no_effect_or_stands_twice_is_refused(hub):
    with pytest.raises(SourceError, match=r"model\.revision='v1' has no effect: .* is a directory") as error:
        pinned(str(hub / FIRST), "v1")
    assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match="both say a revision"):
        pinned(f"{NAME}@v1", "main")


@pytest.mark.parametrize("revision", ["v9", "4" * 40])
def test_revision_that_is_not_there_is_refused(hub, revision):
    with pytest.raises(SourceError, match=f"{NAME}@{revision}.*the hub did not give it"):
        pinned(NAME, revision)


@pytest.mark.parametrize(
    "odd", ["a/b@../../x", "a/b@/etc", "a/b@", "./a/b@v1", "~/a@v1", "a/b@v..1", "a/b@v 1"]
)
def test_revision_is_never_a_path_out_of_the_cache(odd):
    assert split_revision(odd) == (odd, None)


def test_directory_may_have_a_name_with_that_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_source(tmp_path / "model@home", tiny.config())
    assert (
        positions("model@home")
        == json.loads((tmp_path / "model@home" / "config.json").read_text())["max_position_embeddings"]
    )
    assert pinned("model@home") == "model@home"
