"""Exports of earlier versions are mended where they lie: files are renamed and completed, weights keep their bytes."""

import errno
import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from shear_lit.cli import main
from shear_lit.commands import mending as command
from shear_lit.commands.export import export
from shear_lit.commands.mend import mend
from shear_lit.commands.rank import rank
from shear_lit.models.directories import DirectoryError
from shear_lit.models.huggingface import SourceError
from shear_lit.models.verification import VerificationError
from shear_lit.models.writing import WEIGHT_SUFFIXES
from shear_lit.pruning.artefact import GATES, GATES_BEFORE
from shear_lit.ranking.scores import ScoresError, read_scores
from shear_lit.reporting.recipe import RecipeError
from tests import tiny
from tests.toy_families import ONE_OF_EACH, model_of
from tests.trees import tree

LATER = ("rope_theta", "rope_scaling", "rotary_emb_base", "rotary_pct", "torch_dtype", "rope_local_base_freq")
"""Entries that exports did not have before."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source, its scores, an export of today, and the same as version 0.1 wrote it: without what came later."""
    place = tmp_path_factory.mktemp("made")
    tiny.write_source(place / "source", tiny.config())
    rank(str(place / "source"), str(place / "scores.safetensors"), "weight")
    export(gates=str(place / "scores.safetensors"), output=str(place / "now"), target=tiny.TARGET)
    out = place / "out"
    shutil.copytree(place / "now", out)
    age(out)
    recipe = json.loads((out / "recipe.json").read_text())
    for name in ("selection", "gates"):
        del recipe[name]
    (out / "recipe.json").write_text(json.dumps({**recipe, "format": 1}))
    (out / GATES).rename(out / GATES_BEFORE)
    (out / "README.md").write_text("# now\n\nA dense model with learned gates. Made with `shear_lit`.\n")
    return place


@pytest.fixture
def old(tmp_path, made):
    """The old export."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def age(directory):
    entries = json.loads((directory / "config.json").read_text())
    for name in LATER:
        entries.pop(name, None)
    (directory / "config.json").write_text(json.dumps(entries))


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_old_export_is_mended_and_its_weights_are_left_alone(old):
    before = sha(old / "model.safetensors"), (old / "model.safetensors").stat().st_mtime_ns
    result = mend(str(old))
    assert set(result.files) == {"config.json", "recipe.json", "README.md", GATES}
    assert (sha(old / "model.safetensors"), (old / "model.safetensors").stat().st_mtime_ns) == before
    entries = json.loads((old / "config.json").read_text())
    assert entries["rope_theta"] == entries["rope_parameters"]["rope_theta"]
    assert {path.name for path in old.iterdir() if path.suffix in WEIGHT_SUFFIXES} == {"model.safetensors"}
    card = (old / "README.md").read_text()
    assert "the sizes of weights" in card and "training: none" in card
    assert not [path for path in old.iterdir() if path.name.startswith(".")]


def test_mended_export_is_what_export_writes_now(old, made):
    mend(str(old))
    ours, theirs = tree(old), tree(made / "now")
    assert ours.keys() == theirs.keys()
    # Of the gates, safetensors puts the header's entries in any order.
    assert {name for name in ours if ours[name] != theirs[name]} <= {GATES}
    assert read_scores(str(old / GATES)).origin == read_scores(str(made / "now" / GATES)).origin


def test_mending_twice_changes_nothing(old):
    mend(str(old))
    before = tree(old)
    assert mend(str(old)).files == ()
    assert tree(old) == before


def test_card_that_somebody_wrote_is_left_alone(old):
    (old / "README.md").write_text("# Mine\n")
    assert "README.md" not in mend(str(old)).files
    assert (old / "README.md").read_text() == "# Mine\n"


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_every_family_without_a_recipe_is_mended(tmp_path, form):
    """As a control or a model of somebody else: config and names alone."""
    network = model_of(form, dtype=torch.float32)
    network.save_pretrained(tmp_path / "out")
    age(tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    if form.family == "gpt_neox":  # as transformers 5.23 writes it
        tensors = load_file(file)
        tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
        save_file(tensors, file, metadata={"format": "pt"})
    before, values = sha(file), load_file(file)
    result = mend(str(tmp_path / "out"))
    assert "config.json" in result.files
    if form.family == "gpt_neox":
        after = load_file(file)
        assert torch.equal(after.pop("embed_out.weight"), values.pop("lm_head.weight"))
        assert after.keys() == values.keys() and all(torch.equal(after[name], values[name]) for name in after)
    else:
        assert sha(file) == before
    mended = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.equal(mended(ids).logits, network(ids).logits)


def test_sharded_weights_are_renamed_with_their_index(tmp_path):
    form = next(form for form in ONE_OF_EACH if form.family == "gpt_neox")
    model_of(form, dtype=torch.float32).save_pretrained(tmp_path / "out", max_shard_size="20KB")
    index = tmp_path / "out" / "model.safetensors.index.json"
    text = index.read_text()
    shard = tmp_path / "out" / json.loads(text)["weight_map"]["embed_out.weight"]
    tensors = load_file(shard)
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    save_file(tensors, shard, metadata={"format": "pt"})
    index.write_text(text.replace("embed_out.weight", "lm_head.weight"))
    before = tree(tmp_path / "out")
    written = mend(str(tmp_path / "out")).files
    assert {shard.name, index.name} <= set(written)
    after = tree(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == set(written)
    assert json.loads(index.read_text())["weight_map"]["embed_out.weight"] == shard.name


def test_source_that_is_named_gives_the_names(tmp_path):
    form = next(form for form in ONE_OF_EACH if form.family == "llama")
    for name in ("source", "out"):
        model_of(form, dtype=torch.float32).save_pretrained(tmp_path / name)
    file = tmp_path / "source" / "model.safetensors"
    bare = {name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}
    save_file(bare, file, metadata={"format": "pt"})
    mend(str(tmp_path / "out"), source=str(tmp_path / "source"))
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == bare.keys()


def test_mended_files_that_read_otherwise_are_thrown_away(old, monkeypatch):
    """The twin of the check: a config that gets another base."""

    def careless(directory, into):
        changed = original(directory, into)
        entries = json.loads((into / "config.json").read_text())
        entries["rope_theta"] = entries["rope_parameters"]["rope_theta"] = 77.0
        (into / "config.json").write_text(json.dumps(entries))
        return changed

    original, before = command.mend_config, tree(old)
    monkeypatch.setattr(command, "mend_config", careless)
    with pytest.raises(VerificationError, match="mended against present model"):
        mend(str(old))
    assert tree(old) == before


def test_mending_that_is_stopped_is_finished_by_the_next(old, monkeypatch):
    class Stop(BaseException):
        pass

    def stop(path, target):
        if target.name == "recipe.json":
            raise Stop
        return rename(path, target)

    rename = command.Path.replace
    with monkeypatch.context() as patched:
        patched.setattr(command.Path, "replace", stop)
        with pytest.raises(Stop):
            mend(str(old))
    assert AutoModelForCausalLM.from_pretrained(old).num_parameters() > 0
    assert {"README.md", "recipe.json", GATES} <= set(mend(str(old)).files)
    assert mend(str(old)).files == ()


# Bad input: one line each, and nothing is changed


def test_place_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(SourceError, match="is no model"):
            mend(str(place))
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS], ids=["permission", "read-only disk"])
def test_directory_that_cannot_be_written_in_is_refused(old, monkeypatch, code):
    """What the system answers is put in its mouth: for root there are no such directories."""

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    before = tree(old)
    monkeypatch.setattr(command.tempfile, "mkdtemp", refuse)
    with pytest.raises(DirectoryError, match=f"cannot be written in .{os.strerror(code)}"):
        mend(str(old))
    assert tree(old) == before


def test_source_that_is_not_there_is_said(old, tmp_path):
    before = tree(old)
    with pytest.raises(SourceError, match=r"^source='.*nowhere' is no directory"):
        mend(str(old), source=str(tmp_path / "nowhere"))
    assert tree(old) == before


def test_damaged_recipe_is_said(old):
    (old / "recipe.json").write_text("{")
    before = tree(old)
    with pytest.raises(RecipeError, match="cannot be read"):
        mend(str(old))
    (old / "recipe.json").write_text('{"format": 1}')
    with pytest.raises(SourceError, match=r"its recipe\.json lacks"):
        mend(str(old))
    (old / "recipe.json").write_text("{")
    assert tree(old) == before


def test_command_line_takes_the_directory_without_a_key(old, capsys):
    main(["mend", str(old)])
    assert "bit for bit" in capsys.readouterr().out
    shutil.rmtree(old)
    with pytest.raises(SystemExit) as end:
        main(["mend", str(old)])
    assert end.value.code == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_gates_that_were_changed_are_not_given_their_new_name(made, old):
    content = (old / GATES_BEFORE).read_bytes()
    (old / GATES_BEFORE).write_bytes(content[:-100] + bytes(100))
    before = tree(old)
    with pytest.raises(ScoresError, match=r"^directory='.*gates\.safetensors'"):
        mend(str(old))
    assert tree(old) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("parameters", "many"), ("licence", 3), ("source", 1.5), ("shape", None), ("source_shape", [1])],
)
def test_recipe_of_other_values_is_refused(old, name, value):
    recipe = json.loads((old / "recipe.json").read_text())
    (old / "recipe.json").write_text(json.dumps({**recipe, name: value}))
    before = tree(old)
    with pytest.raises(SourceError, match=r"or was changed: a card cannot be made from it"):
        mend(str(old))
    assert tree(old) == before


def test_recipe_that_is_a_pipe_is_not_waited_at(old):
    (old / "recipe.json").unlink()
    os.mkfifo(old / "recipe.json")
    with pytest.raises(RecipeError, match="a pipe or a device"):
        mend(str(old))
