"""``prepare --check``: every chunk and index is held against the manifest, and each bad one is named."""

import json
import shutil

import pytest

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.looking.verification import verify
from shear_lit.data.serving.remote import RemoteSettings


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


def state(directory):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()
    }


def test_whole_data_passes_and_is_not_touched(copied):
    before = state(copied)
    result = verify(str(copied))
    assert result.files == 96 and result.bytes == sum(p.stat().st_size for p in copied.rglob("chunk-*"))
    assert "whole; 96 files" in str(result)
    assert state(copied) == before


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_each_bad_file_has_a_line_of_its_own(copied):
    flip(copied / "a" / "prune" / "chunk-0-1.bin")
    truncate(copied / "b" / "pretrain" / "chunk-0-7.bin")
    (copied / "c" / "validation" / "chunk-0-0.bin").unlink()
    truncate(copied / "b" / "validation" / "index.json")
    shutil.rmtree(copied / "a" / "validation")
    before = state(copied)
    with pytest.raises(DamagedData) as refused:
        verify(str(copied))
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("11 of its files are not what manifest.json says:")
    for place, what in (
        ("a/prune/chunk-0-1.bin", "content changed"),
        ("b/pretrain/chunk-0-7.bin", "bytes instead of"),
        ("c/validation/chunk-0-0.bin", "the file is missing"),
        ("b/validation/index.json", "the index cannot be read"),
        ("a/validation", "the folder is missing"),
        ("a/validation/chunk-0-2.bin", "the file is missing"),
    ):
        assert [line for line in lines if f"{copied / place}: " in line and what in line], place
    assert refused.value.exit_code == 1 and state(copied) == before


def test_every_single_flipped_byte_is_found(prepared, tmp_path):
    """All of a chunk counts: head, offsets and tokens."""
    copied = shutil.copytree(prepared, tmp_path / "data")
    path = copied / "a" / "prune" / "chunk-0-2.bin"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :])
        with pytest.raises(DamagedData, match=r"a/prune/chunk-0-2\.bin"):
            verify(str(copied), workers=1)


def test_manifest_that_tells_of_other_chunks_is_found(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["domains"]["b"]["splits"]["prune"]["chunks"][2]["sha256"] = "0" * 64
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedData, match=r"b/prune/chunk-0-2\.bin: the file's content changed"):
        verify(str(copied))


def test_what_is_no_prepared_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="is no directory"):
        verify(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        verify(str(tmp_path))
    with pytest.raises(DataError, match="workers=0"):
        verify(str(tmp_path), workers=0)


def test_mounted_data_is_verified_where_it_lies(copied):
    assert verify(f"local:{copied}").files == 96
    flip(copied / "a" / "prune" / "chunk-0-1.bin")
    with pytest.raises(DamagedData, match=r"a/prune/chunk-0-1\.bin could not be fetched in 1 attempt"):
        verify(f"local:{copied}", remote=RemoteSettings(attempts=1))
