"""What a file names lies in its own directory, and what is removed or written over is a run's own."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.looking.verification import verify
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.order.mixture_log import read_mixture_log
from shear_lit.data.order.references import References, read_references, write_references
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.commit import clear, clear_work, locked, output_place
from shear_lit.data.preparing.mds import mds_shards
from shear_lit.data.preparing.mds_import import MdsImport, import_mds
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.serving.cache import ChunkCache
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.remote import RemoteError, RemoteSettings, read_prepared
from shear_lit.data.serving.store import SequenceStore
from shear_lit.mistakes import Mistake
from tests.data.preparing.mds_folders import sample, write_mds
from tests.data.serving.test_cache import SIZE, content, download, read, record

TEXTS = [f"document number {number} says {number * number}" for number in range(60)]


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_text("mine")
    return tmp_path / "home" / "secret"


@pytest.mark.parametrize("name", ["a/prune/chunk-0-0.bin", "a/prune/index.json", "a/prune", "a"])
def test_a_link_that_leads_out_of_prepared_data_is_refused(copied, tmp_path, name):
    shutil.move(copied / name, tmp_path / "elsewhere")
    (copied / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"is a link to '.*elsewhere.*', outside of the directory"):
        read_manifest(copied)
    with pytest.raises(DamagedData, match=r"is a link to '.*elsewhere"):
        verify(str(copied))


def test_links_inside_of_prepared_data_and_to_it_are_followed(copied, tmp_path):
    shutil.move(copied / "a" / "prune", copied / "kept")
    (copied / "a" / "prune").symlink_to(copied / "kept")
    (tmp_path / "link").symlink_to(copied)
    assert SequenceStore(tmp_path / "link", "prune")[0, 3]["tokens"][0, 1] == 3
    assert verify(str(tmp_path / "link")).files == 96


def test_the_store_of_a_download_from_the_hub_is_no_place_outside(copied, tmp_path):
    """The hub's cache keeps files under their hashes, and links to them in ``snapshots``."""
    snapshot, blobs = tmp_path / "datasets--x" / "snapshots" / "0" / "", tmp_path / "datasets--x" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in copied.rglob("*") if path.is_file()):
        place = snapshot / path.relative_to(copied)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, blobs / str(number))
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    assert verify(str(snapshot)).files == 96


def test_a_token_outside_of_the_vocabulary_ends_the_run_where_it_is_read(copied):
    content = json.loads((copied / "manifest.json").read_text())
    content["tokenizer"]["vocabulary"] = 3
    (copied / "manifest.json").write_text(json.dumps(content))
    store = SequenceStore(copied, "prune")
    assert store[0, 2]["tokens"].max() == 2
    with pytest.raises(DamagedData, match=r"b/prune, sequence 30: it holds the token 30, and .* 3 entries"):
        store.__getitems__([(0, 1), (1, 30)])


@pytest.mark.parametrize(("key", "value"), [("chunk_bytes", 10), ("filename", "../../etc/passwd")])
def test_an_index_of_other_files_is_refused(copied, key, value):
    path = copied / "a" / "prune" / "index.json"
    index = json.loads(path.read_text())
    index["chunks"].append(dict(index["chunks"][0]) | {key: value})  # as while files are added
    path.write_text(json.dumps(index))
    if key == "filename":
        with pytest.raises(DataError, match="names a file that is not in its folder"):
            read_manifest(copied)
    else:
        read_manifest(copied)


def test_an_mds_shard_outside_of_its_folder_is_refused(tmp_path, secret):
    folder = write_mds(tmp_path / "mds", [sample(0, 0)])
    index = json.loads((folder / "index.json").read_text())
    shutil.move(folder / "shard.00000.mds", tmp_path / "home" / "shard")
    (folder / "shard.00000.mds").symlink_to(tmp_path / "home" / "shard")
    with pytest.raises(DataError, match=r"names the shard 'shard\.00000\.mds', outside of its folder"):
        mds_shards(folder)
    for name in ("../home/shard", str(secret), "a/../../home/shard", "home\0", ""):
        index["shards"][0]["raw_data"]["basename"] = name
        (folder / "index.json").write_text(json.dumps(index))
        with pytest.raises(DataError, match="outside of its folder"):
            mds_shards(folder)


def test_folders_that_lead_round_in_a_circle_are_walked_once(tmp_path):
    write_mds_into = tmp_path / "mds" / "a"
    write_mds_into.mkdir(parents=True)
    write_mds(write_mds_into, [sample(0, 0)])
    for number in range(8):
        (tmp_path / "mds" / f"round-{number}").symlink_to(tmp_path / "mds")
    assert len(mds_shards(tmp_path / "mds")) == 1


def test_the_cache_removes_its_own_chunks_and_nothing_else(tmp_path):
    theirs = [
        tmp_path / "pytorch_model.bin",
        tmp_path / "data.partial" / "chunk",
        tmp_path / "x-5.partial" / "file",
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"m" * 10 * SIZE)
    cache = ChunkCache(tmp_path, SIZE)
    for number in (1, 2, 3):
        assert read(cache, number) == content(number)
    assert all(path.read_bytes() == b"m" * 10 * SIZE for path in theirs)
    assert [path.name for path in tmp_path.glob("*.bin") if path not in theirs] == [f"{record(3).sha256}.bin"]
    with pytest.raises(DataError, match=r"data\.remote\.cache_bytes=500, cache_directory="):
        ChunkCache(tmp_path, 500).open(record(1), download(1))


@pytest.mark.parametrize("where", ["", "/spool"])
def test_a_place_to_work_in_that_is_a_link_is_refused(settings, write_jsonl, secret, where):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)})
    link = Path(f"{options.output}.partial{where}")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret.parent)
    with pytest.raises(DataError, match=r"output='.*partial.*Move it away"):
        prepare(options)
    assert secret.read_text() == "mine"


def test_the_lock_is_not_written_through_a_link(tmp_path, secret):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "lock").symlink_to(secret)
    with pytest.raises((DataError, OSError)), locked(tmp_path / "out.partial"):
        pass
    assert secret.read_text() == "mine"


def test_clearing_follows_no_link(tmp_path, secret, settings, write_jsonl):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "spool").symlink_to(secret.parent)
    clear_work(tmp_path / "work")
    assert secret.read_text() == "mine" and not list((tmp_path / "work").iterdir())
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, workers=1)
    manifest, output = prepare(options), Path(options.output)
    shutil.rmtree(output / ".ledger")
    (secret.parent / "7").mkdir()
    (output / ".ledger").symlink_to(secret.parent)
    (output / "web" / "prune" / "chunk-notes.txt").write_text("mine")
    (output / "web" / "prune" / "chunk-0-99.bin").write_text("left by a run")
    clear(output, manifest)
    assert secret.is_file() and (secret.parent / "7").is_dir()
    assert (output / "web" / "prune" / "chunk-notes.txt").is_file()
    assert not (output / "web" / "prune" / "chunk-0-99.bin").exists()
    with pytest.raises(DataError, match=r"ledger.*damaged"):
        prepare(settings({"web": write_jsonl("more.jsonl", ["something new " * 30])}))


@pytest.mark.parametrize(
    "what", ["file", "below a file", "dangling", ".", "/", "no user", "not writable", "zero", ""]
)
@pytest.mark.parametrize("command", ["prepare", "import"])
def test_outputs_are_tried_before_the_work(settings, tmp_path, monkeypatch, what, command):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    output = {
        "below a file": "file/x",
        "no user": "~nobody-of-that-name/x",
        "zero": "a\0b",
        "not writable": "y",
    }.get(what, what)
    output = output if what in (".", "/", "no user", "") else str(tmp_path / output)
    if what == "not writable":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(Mistake) as refused:
        if command == "prepare":
            prepare(settings({"web": "absent.jsonl"}, output=output))
        else:
            import_mds(MdsImport(from_mds="absent", tokenizer="absent", output=output))
    assert str(refused.value).startswith("output=") and len(str(refused.value).splitlines()) == 1
    assert not list((tmp_path / "new").iterdir()) and refused.value.key == "output"


def test_an_output_may_be_a_link_to_a_directory(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert output_place(str(tmp_path / "link")) == tmp_path / "real"


def test_home_is_meant_by_a_tilde_everywhere(copied, tmp_path, monkeypatch, settings, write_jsonl):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(copied)
    shutil.copytree(settings({"web": ""}).tokenizer, tmp_path / "tokenizer")
    write_jsonl("web.jsonl", TEXTS)
    prepare(settings({"web": "~/web.js*"}, output="~/out", tokenizer="~/tokenizer", workers=1))
    assert read_manifest("~/out").domains["web"].inputs == 1 and verify("~/out").files == 9
    write_references("~/r.yaml", References(source="", tokenizer="", losses={"a": 1.0}))
    assert read_references("~/r.yaml").losses == {"a": 1.0}
    assert SequenceStore("~/data", "prune")[1, 7]["tokens"][0, 1] == 7
    assert read_prepared("local:~/data", RemoteSettings(attempts=1)) == read_manifest(copied)
    with pytest.raises(
        DataError, match=r"^data\.mixture\.proportions='~/none' cannot be read \(No such file"
    ):
        read_mixture_log("~/none")
    write_mds(tmp_path / "mds", [sample(0, 0)])
    assert len(mds_shards("~/mds")) == 1
    assert not list(copied.rglob("*~*"))


def test_a_mounted_file_that_is_larger_than_it_should_be_is_not_copied(copied, tmp_path):
    with (copied / "manifest.json").open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(RemoteError, match=r"in 1 attempt.*more than the 67,108,864 bytes"):
        read_prepared(f"local:{copied}", RemoteSettings(attempts=3))
    (copied / "manifest.json").unlink()
    os.mkfifo(copied / "manifest.json")
    with pytest.raises(RemoteError, match=r"in 1 attempt.*is not a file"):
        read_prepared(f"local:{copied}", RemoteSettings(attempts=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_sequences": 0}, r"^data\.validation_sequences=0"),
        ({"validation_micro_batch": 0}, r"^data\.validation_sequences=.*validation_micro_batch=0"),
        ({"workers": -1}, r"^data\.workers=-1"),
    ],
)
def test_numbers_of_the_data_are_checked_before_the_run(prepared, changes, message):
    mixture = MixtureSettings(proportions={"a": 0.5, "b": 0.25, "c": 0.25}, rule="static")
    with pytest.raises(DataError, match=message):
        DomainData(str(prepared), mixture, **changes).check_data()


def test_numbers_show_their_ranges_on_the_command_line(tmp_path, capfd):
    from shear_lit import cli

    needed = ["--domains", '{"a": "x.jsonl"}', "--tokenizer=x", f"--output={tmp_path / 'o'}"]
    for key, value in {"workers": "-1", "sequence_length": "1", "chunk_bytes": "true"}.items():
        with pytest.raises(SystemExit) as left:
            cli.main(["prepare", *needed, f"--{key}={value}"])
        said = capfd.readouterr().err
        assert left.value.code == 2 and key in said and "Traceback" not in said
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--help"])
    said = " ".join(capfd.readouterr().out.split())
    assert re.search(r"--workers WORKERS .{0,200}\(type: IntFrom1To1024", said)


def test_a_manifest_that_is_a_link_out_of_its_directory_is_refused(copied, tmp_path):
    shutil.move(copied / "manifest.json", tmp_path / "elsewhere")
    (copied / "manifest.json").symlink_to(tmp_path / "elsewhere")
    for look in (read_manifest, lambda place: verify(str(place))):
        with pytest.raises(DataError, match=r"it is a link to '.*elsewhere', outside of the directory"):
            look(copied)


def test_an_mds_index_that_is_a_link_out_of_its_folder_is_refused(tmp_path):
    folder = write_mds(tmp_path / "mds", [sample(0, 0)])
    (folder / "index.json").rename(tmp_path / "elsewhere")
    (folder / "index.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Mistake, match="is a link that leads out of its folder"):
        mds_shards(folder)
