"""Chunks are litdata's, byte for byte, and hold every token in order; documents keep their bounds."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from litdata import StreamingDataset, TokensLoader
from litdata.streaming.writer import BinaryWriter

from shear_lit.data.prepared import chunks as chunks_module
from shear_lit.data.prepared.chunks import SequenceDocuments, write_chunk, write_index
from shear_lit.data.preparing import packing
from shear_lit.data.preparing.packing import EMPTY, Part, Stream, Tail, pack, rest_of
from shear_lit.data.preparing.settings import PrepareSettings
from shear_lit.data.tokens.spools import SpoolRecord, write_spool
from tests.data.preparing.jobs import job_in

LENGTH = 8


def spooled(job, name, documents):
    """A spool that holds these documents."""
    parts = [np.array(document, dtype=job.dtype) for document in documents]
    record = SpoolRecord(
        documents=len(parts), tokens=sum(map(len, parts)), numbers=len(parts), rejected={}, first=[],
        token_type=job.token_type,
    )  # fmt: skip
    hashes = b"".join(hashlib.sha256(part.tobytes()).digest()[:16] for part in parts)
    write_spool(job.spools / name, record, hashes, parts)


def stream(job, documents, *, per_spool=7, tail=EMPTY, others=0):
    """A stream of these documents, over several spools; before each come ``others`` of other splits."""
    job.spools.mkdir(exist_ok=True)
    parts, marks, first = [], [], len(tail.tokens)
    for number, begin in enumerate(range(0, len(documents), per_spool)):
        own = documents[begin : begin + per_spool]
        mixed = [one for document in own for one in ([[9999] * 3] * others + [document])]
        spooled(job, f"spool-{number}", mixed)
        parts.append(Part(spool=f"spool-{number}", marks=len(marks), split=1, first=first))
        marks += ([0] * others + [1]) * len(own)
        first += sum(map(len, own))
    job.marks.write_bytes(bytes(marks))
    return Stream(folder="web/prune", parts=parts, tail=tail, tokens=first, marks="0" * 64)


def packed(job, whole, *, first=0):
    """All chunks of a stream, written in reverse, and what is left over."""
    (job.work / packing.DONE).mkdir(exist_ok=True)
    tasks = list(whole.tasks(job, first))
    found = {task.number: pack(job, task) for task in reversed(tasks)}
    return [found[task.number] for task in tasks], rest_of(job, whole.rest(job))


def sequences_of(job, chunk):
    size = chunk.sequences * LENGTH
    content = (job.packed / "web" / "prune" / chunk.file).read_bytes()
    return np.frombuffer(content[len(content) - size * job.dtype.itemsize :], job.dtype).reshape(-1, LENGTH)


def documents_of(job, chunk):
    content = (job.packed / "web" / "prune" / chunk.documents.file).read_bytes()
    return SequenceDocuments.parsed(content, chunk.sequences, LENGTH)


@pytest.fixture
def documents():
    """Each of tokens that tell its number and the place in it."""
    numbers = np.random.default_rng(0)
    lengths = [*numbers.integers(1, 40, 90), 1, 1, 8, 16, 200, 3]
    return [[number * 250 + place for place in range(length)] for number, length in enumerate(lengths)]


@pytest.fixture
def job(tmp_path):
    return job_in(tmp_path, sequence_length=LENGTH, chunk_bytes=2 * LENGTH * 11)


def litdata_chunks(folder, tokens, *, per_chunk, token_type):
    """What litdata's own writer makes of the same sequences."""
    writer = BinaryWriter(str(folder), chunk_size=per_chunk * LENGTH, item_loader=TokensLoader())
    writer._rank = 0
    for number in range(len(tokens) // LENGTH):
        writer.add_item(number, np.array(tokens[number * LENGTH : (number + 1) * LENGTH], dtype=token_type))
    writer.done()
    return json.loads((folder / "0.index.json").read_text())


@pytest.mark.parametrize("token_type", ["uint16", "uint32"])
@pytest.mark.parametrize("chunk_bytes", [1, 16 * 7 + 5, 1 << 20])
def test_chunks_are_those_of_litdatas_own_writer(tmp_path, documents, chunk_bytes, token_type):
    vocabulary = 60_000 if token_type == "uint16" else 100_000
    job = job_in(tmp_path, vocabulary=vocabulary, sequence_length=LENGTH, chunk_bytes=chunk_bytes)
    found, rest = packed(job, stream(job, documents))
    tokens = [token for document in documents for token in document]
    theirs = litdata_chunks(tmp_path / "theirs", tokens, per_chunk=job.per_chunk, token_type=token_type)
    folder, records = job.packed / "web" / "prune", [one.chunk for one in found]
    write_index(folder, records, length=LENGTH, per_chunk=job.per_chunk, token_type=token_type)
    ours = json.loads((folder / "index.json").read_text())
    assert ours["chunks"] == theirs["chunks"] and ours["config"] == theirs["config"]
    for chunk in records:
        content = (folder / chunk.file).read_bytes()
        assert content == (tmp_path / "theirs" / chunk.file).read_bytes()
        assert (chunk.bytes, chunk.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert rest.tokens == tokens[len(tokens) // LENGTH * LENGTH :]
    assert not list(folder.glob("*.part"))
    read = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=LENGTH))
    assert read[len(read) - 1].tolist() == tokens[: len(tokens) // LENGTH * LENGTH][-LENGTH:]


def test_a_head_of_another_length_is_found(tmp_path, documents, job, monkeypatch):
    """The twin: a chunk with the head of a full one would not be litdata's."""
    monkeypatch.setattr(
        chunks_module, "_head", lambda sequences, size, real=chunks_module._head: real(500, size)
    )
    found, _ = packed(job, stream(job, documents))
    tokens = [token for document in documents for token in document]
    litdata_chunks(tmp_path / "theirs", tokens, per_chunk=11, token_type="uint16")
    name = found[-1].chunk.file
    ours = (job.packed / "web" / "prune" / name).read_bytes()
    assert ours != (tmp_path / "theirs" / name).read_bytes()


@pytest.mark.parametrize("others", [0, 2])
def test_every_document_keeps_its_bounds_where_they_are_cut(job, documents, others):
    found, rest = packed(job, stream(job, documents, others=others))
    begins = []
    for one in found:
        sequences, where = sequences_of(job, one.chunk), documents_of(job, one.chunk)
        for row in range(len(sequences)):
            places = where.starts[where.firsts[row] : where.firsts[row + 1]]
            assert set(np.flatnonzero(sequences[row] % 250 == 0)) == set(
                places
            )  # each document's first token
            begins += sequences[row][places].tolist()
            wanted = sequences[row] % 250 - np.where(
                places.size and places[0] == 0, 0, sequences[row][0] % 250
            ) * (np.arange(LENGTH) < (places[0] if places.size else LENGTH))
            assert where.positions(row, LENGTH).tolist() == wanted.tolist()
    begins += [rest.tokens[place] for place in rest.starts]
    assert begins == [document[0] for document in documents]


def test_no_document_that_fits_into_a_sequence_is_cut_by_best_fit(tmp_path, documents):
    job = job_in(tmp_path, sequence_length=LENGTH, chunk_bytes=2 * LENGTH * 11, packing="best_fit")
    found, rest = packed(job, stream(job, documents, others=1))
    found = [one for one in found if one.chunk is not None]
    pieces, padding = [], 0
    for one in found:
        sequences, where = sequences_of(job, one.chunk), documents_of(job, one.chunk)
        padding += one.padding
        for row in range(len(sequences)):
            places = where.starts[where.firsts[row] : where.firsts[row + 1]].tolist()
            ends = [*places[1:], int(where.ends[row])]
            pieces += [sequences[row][a:b].tolist() for a, b in zip(places, ends, strict=True)]
            assert places[0] == 0 and not sequences[row][ends[-1] :].any()
    assert rest == EMPTY
    for document in documents:
        wanted = [document[at : at + LENGTH] for at in range(0, len(document), LENGTH)]
        for piece in wanted:
            pieces.remove(piece)
    assert not pieces
    total = sum(one.chunk.sequences for one in found) * LENGTH
    assert padding == total - sum(map(len, documents)) and padding / total < 0.05


def test_a_document_longer_than_chunks_leaves_chunks_without_any(tmp_path):
    job = job_in(tmp_path, sequence_length=LENGTH, chunk_bytes=2 * LENGTH, packing="best_fit")
    found, _ = packed(job, stream(job, [[1] * 50, [2] * 5]))
    assert [one.chunk is None for one in found] == [False, True, True, True, True, True, False]
    assert sum(one.chunk.sequences for one in found if one.chunk) == 8


def test_going_on_with_a_stream_packs_what_one_would_have_packed(tmp_path, documents):
    whole, rest = packed(job := job_in(tmp_path / "a", sequence_length=LENGTH), stream(job, documents))
    first, left = packed(one := job_in(tmp_path / "b", sequence_length=LENGTH), stream(one, documents[:40]))
    assert left.tokens
    again, last = packed(
        two := job_in(tmp_path / "c", sequence_length=LENGTH), stream(two, documents[40:], tail=left), first=1
    )
    assert last == rest
    joined = [sequences_of(one, first[0].chunk), sequences_of(two, again[0].chunk)]
    assert np.concatenate(joined).tolist() == sequences_of(job, whole[0].chunk).tolist()
    assert again[0].chunk.file == "chunk-0-1.bin"
    starts = documents_of(job, whole[0].chunk)
    parts = [documents_of(one, first[0].chunk), documents_of(two, again[0].chunk)]
    assert starts.starts.tolist() == [s for part in parts for s in part.starts.tolist()]


def test_a_chunk_that_is_written_is_not_written_again(job, documents, monkeypatch):
    whole = stream(job, documents)
    found, _ = packed(job, whole)
    monkeypatch.setattr(packing, "write_chunk", None)
    assert packed(job, whole)[0] == found
    monkeypatch.undo()
    written = []
    real = packing.write_chunk
    monkeypatch.setattr(packing, "write_chunk", lambda *a: (written.append(a[1]), real(*a))[1])
    (job.packed / "web" / "prune" / "chunk-0-1.documents").unlink()
    chunk = job.packed / "web" / "prune" / "chunk-0-2.bin"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert packed(job, whole)[0] == found and sorted(written) == [1, 2]
    written.clear()
    packed(job, replace(whole, marks="1" * 64))
    assert len(written) == len(found)


def test_a_chunk_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "full")

    monkeypatch.setattr(chunks_module.os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write_chunk(tmp_path, 0, [np.zeros(16, np.uint16)], None, 8)
    assert not list(tmp_path.iterdir())


def test_an_empty_tail_is_that_of_settings_that_cut_nothing():
    assert Tail(tokens=[], starts=[]) == EMPTY and PrepareSettings.packing == "concatenate"
