"""Chunks are litdata's, byte for byte, and hold every token in order."""

import hashlib
import json

import numpy as np
import pytest
from litdata import StreamingDataset, TokensLoader
from litdata.streaming.writer import BinaryWriter

from shear_lit.data.preparing import packing
from shear_lit.data.preparing.packing import SplitWriter


def pack(folder, documents, *, chunk_bytes, length=8, token_type="uint16", **more):
    with SplitWriter(
        folder, sequence_length=length, token_type=token_type, chunk_bytes=chunk_bytes, **more
    ) as writer:
        for document in documents:
            writer.add(document)
        return writer.finish(), writer.tail


def litdata_chunks(folder, tokens, *, chunk_bytes, length=8, token_type="uint16"):
    """What litdata's own writer makes of the same sequences."""
    per_chunk = max(1, chunk_bytes // (length * np.dtype(token_type).itemsize))
    writer = BinaryWriter(str(folder), chunk_size=per_chunk * length, item_loader=TokensLoader())
    writer._rank = 0
    for number in range(len(tokens) // length):
        part = np.array(tokens[number * length : (number + 1) * length], dtype=token_type)
        writer.add_item(number, part)
    writer.done()
    return json.loads((folder / "0.index.json").read_text())


@pytest.fixture
def documents():
    numbers = np.random.default_rng(0)
    return [numbers.integers(0, 60_000, numbers.integers(1, 40)).tolist() for _ in range(90)]


@pytest.mark.parametrize("token_type", ["uint16", "uint32"])
@pytest.mark.parametrize("chunk_bytes", [1, 16 * 7 + 5, 1 << 20])
def test_chunks_are_those_of_litdatas_own_writer(tmp_path, documents, chunk_bytes, token_type, monkeypatch):
    monkeypatch.setattr(packing, "_FLUSH_TOKENS", 100)
    sizes = {"chunk_bytes": chunk_bytes, "token_type": token_type}
    record, tail = pack(tmp_path / "ours", documents, **sizes)
    tokens = [token for document in documents for token in document]
    theirs = litdata_chunks(tmp_path / "theirs", tokens, **sizes)
    ours = json.loads((tmp_path / "ours" / "index.json").read_text())
    assert ours["chunks"] == theirs["chunks"] and ours["config"] == theirs["config"]
    for chunk in record.chunks:
        content = (tmp_path / "ours" / chunk.file).read_bytes()
        assert content == (tmp_path / "theirs" / chunk.file).read_bytes()
        assert (chunk.bytes, chunk.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert tail == tokens[len(tokens) // 8 * 8 :] and record.tail_tokens == len(tail)
    assert not list((tmp_path / "ours").glob("*.part"))


def test_a_head_of_another_length_is_found(tmp_path, documents, monkeypatch):
    """The twin: a chunk that kept the head of a full one would not be litdata's."""
    monkeypatch.setattr(packing._Chunk, "_shorten", lambda self: self._file.flush())
    pack(tmp_path / "ours", documents[:20], chunk_bytes=1 << 20)
    tokens = [token for document in documents[:20] for token in document]
    litdata_chunks(tmp_path / "theirs", tokens, chunk_bytes=1 << 20)
    ours, theirs = ((tmp_path / name / "chunk-0-0.bin").read_bytes() for name in ("ours", "theirs"))
    assert ours != theirs


def test_going_on_with_a_split_packs_what_one_writer_would_have_packed(tmp_path, documents):
    whole, tail = pack(tmp_path / "whole", documents, chunk_bytes=100)
    first, left = pack(tmp_path / "parts", documents[:40], chunk_bytes=100)
    record, again = pack(tmp_path / "parts", documents[40:], chunk_bytes=100, earlier=first, tail=left)
    assert (record.tokens, record.sequences, record.documents, again) == (
        whole.tokens,
        whole.sequences,
        whole.documents,
        tail,
    )
    assert record.chunks[: len(first.chunks)] == first.chunks
    read = [
        StreamingDataset(str(tmp_path / name), item_loader=TokensLoader(block_size=8))
        for name in ("whole", "parts")
    ]
    contents = [[part[number].tolist() for number in range(len(part))] for part in read]
    assert contents[0] == contents[1]


def test_a_writer_that_fails_leaves_no_half_written_chunk(tmp_path, documents):
    with (
        pytest.raises(KeyError),
        SplitWriter(tmp_path, sequence_length=8, token_type="uint16", chunk_bytes=1 << 20) as writer,
    ):
        writer.add(np.zeros(1 << 17, dtype=np.uint16))
        assert list(tmp_path.glob("*.part"))
        raise KeyError
    assert not list(tmp_path.glob("*"))
