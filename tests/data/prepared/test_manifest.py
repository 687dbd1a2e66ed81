"""A prepared directory is whole, or the message says what is wrong with it."""

import json
import shutil

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import check_same_domains, write_manifest
from shear_lit.data.prepared.reading import read_manifest


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


def test_manifest_survives_writing_and_reading(copied):
    manifest = read_manifest(copied)
    write_manifest(copied, manifest)
    assert read_manifest(copied) == manifest
    assert manifest.domains["b"].splits["prune"].sequences == 40
    assert manifest.chunk_sizes("prune") == {"a": (5, 5, 3), "b": (5,) * 8, "c": (5, 5, 5, 5, 2)}
    assert not list(copied.glob("*.tmp"))


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.directory=.*nowhere.*is no directory"):
        read_manifest(tmp_path / "nowhere")


def test_directory_without_manifest_is_half_written(copied):
    (copied / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"half-written or was not prepared.*prepare` again"):
        read_manifest(copied)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "domains": 3}'])
def test_damaged_manifest_is_refused(copied, content):
    (copied / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="prepare` again"):
        read_manifest(copied)


def test_unsafe_domain_in_a_manifest_is_refused(copied):
    content = json.loads((copied / "manifest.json").read_text())
    content["domains"]["../../etc"] = content["domains"].pop("a")
    (copied / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="safe folder name"):
        read_manifest(copied)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("file", value) for value in ("../../../outside.bin", "/etc/passwd", "a/b.bin", "..", "", ".h", 3, None)),
        *(("sha256", value) for value in ("../victim/x", "", "F" * 64, "f" * 63, "f" * 64 + "\n", 7, None)),
        *(("bytes", value) for value in (-1, "9", 1.5, None, True)),
        *(("sequences", value) for value in (-1, "9", 1.5, None)),
    ],
)  # fmt: skip
def test_chunk_that_leads_out_of_the_folder_is_refused_and_nothing_is_touched(copied, tmp_path, key, value):
    (tmp_path / "outside.bin").write_text("mine")
    content = json.loads((copied / "manifest.json").read_text())
    content["domains"]["a"]["splits"]["prune"]["chunks"][0][key] = value
    (copied / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"a[./](splits.)?prune.* (is expected|hexadecimal digits|no chunk)"
    ) as refused:
        read_manifest(copied)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "outside.bin").read_text() == "mine"


def test_split_that_leads_out_of_the_folder_is_refused(copied):
    content = json.loads((copied / "manifest.json").read_text())
    splits = content["domains"]["a"]["splits"]
    splits["../b/prune"] = splits.pop("prune")
    (copied / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a has the split '\.\./b/prune'"):
        read_manifest(copied)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d / "a" / "validation"), "a/validation: the folder is missing"),
        (
            lambda d: (d / "b" / "prune" / "index.json").unlink(),
            "b/prune/index.json: the index cannot be read",
        ),
        (
            lambda d: truncate(d / "b" / "prune" / "index.json"),
            "b/prune/index.json: the index cannot be read",
        ),
        (
            lambda d: (d / "c" / "prune" / "chunk-0-1.bin").unlink(),
            "c/prune/chunk-0-1.bin: the file is missing",
        ),
        (
            lambda d: truncate(d / "c" / "prune" / "chunk-0-1.bin"),
            "chunk-0-1.bin: the file has .* bytes instead of",
        ),
        (
            lambda d: shutil.copy(d / "a" / "prune" / "index.json", d / "b" / "prune" / "index.json"),
            "b/prune/index.json: the index does not list the chunks",
        ),
    ],
)
def test_each_damage_is_named_with_its_file(copied, damage, message):
    damage(copied)
    with pytest.raises(DataError, match=message):
        read_manifest(copied)


def test_domains_that_differ_are_all_named():
    check_same_domains(["a", "b"], ["b", "a"], "key", "the data")
    with pytest.raises(
        DataError, match=r"key=\{b, x, y\}: .*it lacks a, c; it has x, y besides;.*Correct it"
    ):
        check_same_domains(["a", "b", "c"], ["b", "y", "x"], "key", "the data")
