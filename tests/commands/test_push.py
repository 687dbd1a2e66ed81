"""``export --push``: a model on a stand-in for the hub, as a whole or not at all."""

import json

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from transformers import AutoModelForCausalLM

from shear_lit import cli
from tests import tiny
from tests.models.stand_in_hub import ORGANISATION, TOKEN, USER, StandInHub, Stored

pytestmark = [
    pytest.mark.enable_socket,
    # huggingface_hub 2.4 hands a file to its client in a way that this one will no longer know.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning"),
]
NAME = f"{ORGANISATION}/small"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that is asked instead of the real one, with a token that it knows."""
    with StandInHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        of_files = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")[1:]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "".join(of_files))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks git-lfs
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    place = tmp_path_factory.mktemp("pushed")
    network = tiny.write_source(place / "source", tiny.config())
    known = tiny.facts(tiny.config(), place / "source")
    return tiny.write_checkpoint(
        place / "step=000007.ckpt", tiny.checkpoint(network, known, tiny.log_alpha(tiny.config()))
    )


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """An export that lies on this machine; no test may change it."""
    out = tmp_path_factory.mktemp("exported") / "model"
    cli.main(["export", f"--checkpoint={checkpoint}", f"--output={out}"])
    return out


def refused(capsys, *words, code=2):
    with pytest.raises(SystemExit) as left:
        cli.main(["export", *map(str, words)])
    said = capsys.readouterr()
    assert left.value.code == code and said.err.count("\n") == 1, said.err
    assert TOKEN not in said.err + said.out
    return said.err


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_pushed_model_is_what_was_exported_and_loads(hub, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    cli.main(["export", f"--checkpoint={checkpoint}", f"--output={out}", f"--push={NAME}"])
    said = capsys.readouterr()
    assert f"pushed to {hub.endpoint}/{NAME} (private), commit 000000000000" in said.out
    assert TOKEN not in said.out + said.err
    stored, written = hub.repositories[NAME], contents(out)
    assert stored.private and len(stored.commits) == 2  # all of it in one
    assert stored.files.keys() - {".gitattributes"} == written.keys()
    assert all(stored.files[name] == content for name, content in written.items() if name != "README.md")
    copy = snapshot_download(NAME, endpoint=hub.endpoint, token=TOKEN, cache_dir=tmp_path / "cache")
    here, there = (AutoModelForCausalLM.from_pretrained(place) for place in (out, copy))
    assert all(map(torch.equal, here.parameters(), there.parameters()))


def test_card_on_the_hub_says_the_name_under_which_it_loads(hub, exported):
    cli.main(["export", f"--output={exported}", f"--push={NAME}"])
    card = hub.repositories[NAME].files["README.md"].decode()
    assert f'from_pretrained("{NAME}")' in card and f"--model.source {NAME}`" in card
    assert 'from_pretrained("<this directory>")' in (exported / "README.md").read_text()


def test_name_without_organisation_is_the_users(hub, exported):
    cli.main(["export", f"--output={exported}", "--push=small", "--push_private=false"])
    assert hub.repositories[f"{USER}/small"].private is False


def test_repository_that_holds_files_is_left_alone_unless_asked(hub, exported, checkpoint, tmp_path, capsys):
    hub.repositories[NAME] = Stored(files={"model-00001-of-00002.safetensors": b"old", "README.md": b"mine"})
    before = dict(hub.repositories[NAME].files)
    said = refused(capsys, f"--output={exported}", f"--push={NAME}")
    assert said.startswith(f"error: push='{NAME}' is there and holds 2 files") and "--push_over true" in said
    refused(capsys, f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}", f"--push={NAME}")
    assert not (tmp_path / "out").exists()  # before anything was computed
    assert hub.repositories[NAME].files == before and len(hub.repositories[NAME].commits) == 1
    cli.main(["export", f"--output={exported}", f"--push={NAME}", "--push_over"])
    assert hub.repositories[NAME].files.keys() == contents(exported).keys()  # no shard of the old one is left
    assert len(hub.repositories[NAME].commits) == 2
    assert "(p" not in capsys.readouterr().out  # who sees it stays as it was


def test_empty_repository_is_filled(hub, exported):
    hub.repositories[NAME] = Stored()
    cli.main(["export", f"--output={exported}", f"--push={NAME}"])
    assert "model.safetensors" in hub.repositories[NAME].files
    assert ("POST", "/api/repos/create") not in hub.asked


def test_change_meanwhile_is_noticed(hub, exported, capsys, monkeypatch):
    stored = hub.repositories[NAME] = Stored()
    preupload = "shear_lit.models.publishing._files_in"
    from shear_lit.models import publishing

    look = publishing._files_in

    def later(directory):
        stored.commits.append("f" * 40)
        return look(directory)

    monkeypatch.setattr(preupload, later)
    said = refused(capsys, f"--output={exported}", f"--push={NAME}")
    assert "changed it, meanwhile" in said and stored.files.keys() == {".gitattributes"}


def test_without_a_token_nothing_is_asked(hub, exported, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "no token of the hub is known" in refused(capsys, f"--output={exported}", f"--push={NAME}")
    assert hub.asked == []


def test_wrong_token_is_refused_and_not_shown(hub, exported, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another-secret")
    said = refused(capsys, f"--output={exported}", f"--push={NAME}")
    assert "the hub does not know the token" in said and "another-secret" not in said


def test_organisation_of_others_is_refused_and_the_export_stays(hub, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    said = refused(capsys, f"--checkpoint={checkpoint}", f"--output={out}", "--push=others/small")
    assert "the token may not write there" in said
    assert f"shear-lit export --output {out} --push others/small" in said and (out / "config.json").is_file()


@pytest.mark.parametrize("part", ["whoami", "preupload", "commit/main"])
def test_hub_that_fails_is_said_in_a_line(hub, exported, capsys, part):
    hub.failing[part] = 503
    said = refused(capsys, f"--output={exported}", f"--push={NAME}", code=1)
    assert "answered 503" in said
    assert NAME not in hub.repositories or set(hub.repositories[NAME].files) == {".gitattributes"}
    hub.failing.clear()
    cli.main(["export", f"--output={exported}", f"--push={NAME}"])  # nothing is in the way of the next one
    assert "model.safetensors" in hub.repositories[NAME].files


def test_no_network_is_said_in_a_line(hub, exported, capsys, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "did not answer" in refused(capsys, f"--output={exported}", f"--push={NAME}", code=1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, f"--output={exported}", f"--push={NAME}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--push=a/b/c"], "push='a/b/c' can be no repository of the hub"),
        (["--push=../x"], "push='../x' can be no repository of the hub"),
        (["--push=small", "--dtype=float32"], "dtype has no effect where an export is pushed"),
        (["--push_over"], "push_over has no effect without push"),
        (["--push_private=false"], "push_private has no effect without push"),
    ],
)
def test_wrong_push_is_refused(hub, exported, capsys, words, said):
    assert said in refused(capsys, f"--output={exported}", *words)
    assert hub.repositories == {}


def test_what_is_no_export_is_not_pushed(hub, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "is no export" in refused(capsys, f"--output={tmp_path / 'model'}", f"--push={NAME}")
    assert hub.asked == []


def test_link_out_of_the_directory_is_not_published(hub, tmp_path, capsys):
    (tmp_path / "secret").write_text("secret")
    place = tmp_path / "model"
    place.mkdir()
    for name in ("config.json", "recipe.json"):
        (place / name).write_text(json.dumps({}))
    (place / "notes.txt").symlink_to(tmp_path / "secret")
    assert "leads out of the directory" in refused(capsys, f"--output={place}", f"--push={NAME}")
    assert not any("secret" in str(file) for file in hub.objects.values())
