"""Small files that stand for large ones, and files without end, are refused within bounded memory and time."""

import gzip
import json
import lzma
import os
import resource
import subprocess
import sys
import zlib

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.text.items import lines_of_stream
from tests.data.preparing.mds_folders import sample, write_mds

MOST_BYTES = 1 << 28
"""What reading one of these may take beyond what the process had; a line may have eight times what it may here."""

READ = """
import resource, sys
from pathlib import Path
from shear_lit.data.errors import DataError
from shear_lit.data.prepared.reading import manifest_alone
from shear_lit.data.text import items
from shear_lit.data.text.pieces import documents, pieces
from shear_lit.data.text.sources import find_sources
from shear_lit.data.preparing.mds import mds_shards
from tests.data.text.test_corpus import Reads
import bz2, gzip, lzma, zstandard

items.MOST_LINE_BYTES = 1 << 27

def text(path):
    reads = Reads(unit_bytes=1 << 20, max_document_bytes=1 << 20)
    for piece in pieces(find_sources({"web": path}), reads):
        for found in documents(piece, reads):
            pass

def mds(path):
    for shard in mds_shards(path):
        for sample in shard:
            pass

read = {"text": text, "mds": mds, "manifest": manifest_alone}[sys.argv[1]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(sys.argv[2])
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def read_apart(kind, path):
    """What a process of its own says of a file, and the memory that it took for it."""
    found = subprocess.run(
        [sys.executable, "-c", READ, kind, str(path)], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    *said, taken = found.stdout.splitlines()
    assert len(said) == 1, said
    return said[0], int(taken)


def zeros(compressor, size):
    """``size`` zeros, compressed part by part."""
    part = bytes(1 << 24)
    for _ in range(size // len(part)):
        yield compressor.compress(part)
    yield compressor.flush()


def test_a_compressed_line_without_end_is_refused(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    compressors = {
        "a.jsonl.gz": zlib.compressobj(1, wbits=31),
        "c.jsonl.xz": lzma.LZMACompressor(preset=0),
        "b.jsonl.zst": zstandard.ZstdCompressor().compressobj(),
    }
    for name, compressor in compressors.items():
        (tmp_path / name).write_bytes(b"".join(zeros(compressor, (1 << 27) + (1 << 24))))
        assert (tmp_path / name).stat().st_size < 1 << 22, name
        said, taken = read_apart("text", tmp_path / name)
        assert "the line at byte 0 of what it holds has more than 134,217,728 bytes" in said and name in said
        assert taken < MOST_BYTES, name


def test_a_frame_that_wants_two_gigabytes_to_look_back_at_is_refused(tmp_path):
    pytest.importorskip("zstandard")
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3])  # no size, a window of 2^31 bytes
    (tmp_path / "a.jsonl.zst").write_bytes(header + b"\x01\x00\x00" * 100)
    said, taken = read_apart("text", tmp_path / "a.jsonl.zst")
    assert "too much memory" in said and taken < MOST_BYTES


def test_a_manifest_of_brackets_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_bytes(b'{"domains": [' + b"[]," * (20 << 20) + b"1]}")
    said, taken = read_apart("manifest", tmp_path)
    assert "more than 4,000,000 values" in said and taken < MOST_BYTES


@pytest.mark.parametrize("how", ["gz", "bz2", "zstd"])
def test_an_mds_shard_holds_what_its_index_says_and_no_more(tmp_path, how):
    import bz2

    zstandard = pytest.importorskip("zstandard")
    folder = write_mds(tmp_path / "mds", [sample(0, 0)], how=how)
    compressors = {
        "gz": zlib.compressobj(1, wbits=31),
        "bz2": bz2.BZ2Compressor(1),
        "zstd": zstandard.ZstdCompressor().compressobj(),
    }
    content = b"".join(zeros(compressors[how], 1 << 26 if how == "bz2" else 1 << 28))
    (folder / f"shard.00000.mds.{how}").write_bytes(content)
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["zip_data"] |= {"bytes": len(content), "hashes": {}}
    (folder / "index.json").write_text(json.dumps(index))
    said, taken = read_apart("mds", folder)
    assert "what it holds does not have" in said and taken < 1 << 27


@pytest.mark.parametrize(("key", "value"), [("bytes", 10**12), ("samples", 10**12)])
def test_an_mds_index_that_claims_a_terabyte_is_refused(tmp_path, key, value):
    folder = write_mds(tmp_path / "mds", [sample(0, 0)])
    index = json.loads((folder / "index.json").read_text())
    (index["shards"][0]["raw_data"] if key == "bytes" else index["shards"][0])[key] = value
    (folder / "index.json").write_text(json.dumps(index))
    with (folder / "shard.00000.mds").open("r+b") as file:
        file.truncate(10**12 if key == "bytes" else None)
    said, taken = read_apart("mds", folder)
    assert "mds" in said and taken < MOST_BYTES


def test_a_pipe_and_a_device_are_not_waited_at(settings, tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.jsonl", "b.jsonl", "*.jsonl"):
        with pytest.raises(DataError, match=r"domains\.web='.*[ab]\.jsonl' is a pipe or a device"):
            prepare(settings({"web": str(tmp_path / name)}))


def test_a_plain_line_without_end_is_left_out_with_its_place(settings, tmp_path, caplog):
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.writelines(b'{"text": "document %d of some"}\n' % number for number in range(150))
        file.truncate(1 << 26)  # a hole, read as zeros
    options = settings({"web": str(tmp_path / "a.jsonl")}, workers=1, max_document_bytes=1000)
    assert prepare(options).domains["web"].rejected == {"larger than max_document_bytes": 1}
    assert "a.jsonl:151: larger than max_document_bytes" in caplog.text


def test_a_long_line_is_skipped_within_its_limit(tmp_path):
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(b"x" * 5000 + b"\nshort\n")
    with gzip.open(tmp_path / "a.gz", "rb") as file:
        assert [len(line) for line in lines_of_stream(file, 100)] == [102, 6]


def test_numbers_of_thousands_of_digits_and_deep_brackets_are_rejected_lines(settings, tmp_path):
    strange = [b'{"text": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"text": "\\ud800"}', b"\xff"]
    lines = [json.dumps({"text": f"document {n} of some"}).encode() for n in range(100)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*strange, *lines, b""]))
    manifest = prepare(settings({"web": str(tmp_path / "a.jsonl")}, workers=1, max_rejected_fraction=0.1))
    assert manifest.domains["web"].rejected == {
        "JSON nested too deeply": 1,
        "no text in field 'text'": 1,
        "invalid UTF-8": 2,
    }
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20
