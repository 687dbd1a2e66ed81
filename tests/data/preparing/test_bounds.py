"""Data of an earlier version is read as it is, and gets the bounds of its documents by a command that is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from shear_lit import cli
from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.looking.verification import verify
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing import bounds as module
from shear_lit.data.preparing.bounds import Ends, write_bounds
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from tests.trees import tree

OLD = Path(__file__).parents[1] / "old"
BOS, EOS = 0, 1


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(OLD / "format-2", tmp_path / "data")


def sequences(directory, *, documents_apart=False):
    found = []
    for split in ("prune", "pretrain", "validation"):
        store = SequenceStore(directory, split)
        loader = ValidationLoader(store, sequences=1000, micro_batch=1, documents_apart=documents_apart)
        found += [(batch["tokens"][0], batch.get("positions")) for batch in loader]
    return found


def test_old_data_is_read_as_it_is(old):
    assert read_manifest(old).format == 2 and verify(str(old)).files == 10
    assert len(sequences(old)) == sum(
        record.sequences
        for domain in read_manifest(old).domains.values()
        for record in domain.splits.values()
    )


def test_documents_apart_need_a_command_that_is_named(old):
    with pytest.raises(DataError, match=r"cross_document_attention=.*`shear-lit prepare --bounds "):
        sequences(old, documents_apart=True)


def test_the_command_writes_where_documents_begin_and_changes_nothing_else(old, capfd):
    before, tokens = tree(old), [row.tolist() for row, _ in sequences(old)]
    fingerprint = read_manifest(old).fingerprint
    cli.main(["prepare", "--bounds", str(old)])
    assert "where documents begin is written beside 10 chunks" in capfd.readouterr().out
    after = tree(old)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"manifest.json", *(n for n in after if n.endswith(".documents"))}
    assert read_manifest(old).fingerprint == fingerprint and verify(str(old)).files == 20
    read = sequences(old, documents_apart=True)
    assert [row.tolist() for row, _ in read] == tokens
    for row, positions in read:
        wanted, place = [], 0
        for token in row.tolist():
            wanted.append(place)
            place = 0 if token == EOS else place + 1
        assert positions[0].tolist() == wanted


def test_it_is_done_once(old):
    write_bounds(str(old))
    with pytest.raises(DataError, match=r"bounds=.*was prepared by this version.*Leave it as it is"):
        write_bounds(str(old))


def test_stopped_it_leaves_the_data_as_it_was_and_is_repeated(old, monkeypatch):
    written = []

    def stops(*arguments, real=module.write_part):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(real(*arguments))
        return written[-1]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_part", stops)
        write_bounds(str(old))
    assert read_manifest(old).format == 2 and verify(str(old)).files == 10
    assert write_bounds(str(old)).format == 3


def test_damaged_chunks_get_no_bounds(old):
    chunk = next(old.rglob("chunk-*.bin"))
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    with pytest.raises((DamagedData, DataError), match=rf"{chunk.name}: the file's content changed"):
        write_bounds(str(old))
    assert read_manifest(old).format == 2


def test_documents_that_nothing_tells_apart_are_refused(old):
    path = old / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"append_eos": False}))
    with pytest.raises(DataError, match=r"without EOS and without BOS.*Prepare the text again"):
        write_bounds(str(old))


def test_files_cannot_be_added_to_it(old, settings, write_jsonl):
    options = settings(
        {"web": write_jsonl("web.jsonl", ["something new"])},
        output=str(old),
        tokenizer=str(OLD / "tokenizer"),
        append_eos=True,
    )
    with pytest.raises(DataError, match=r"by an earlier version.*files cannot be added.*another directory"):
        prepare(options)


@pytest.mark.parametrize(
    ("bos", "eos", "wanted"),
    [
        (BOS, EOS, [[0, 3], [3]]),  # only where the two meet, or BOS comes first
        (BOS, None, [[0, 3], [2, 3]]),
        (None, EOS, [[3], [1, 3]]),
    ],
)
def test_bos_and_eos_tell_where_documents_begin(bos, eos, wanted):
    tokens = np.array([[BOS, 7, EOS, BOS, 7], [EOS, 7, EOS, BOS, EOS]])
    tokens[1] = [EOS, 7, BOS, BOS, EOS] if eos is None else tokens[1]
    found = Ends(bos=bos, eos=eos).told(tokens)
    rows = [found.starts[a:b].tolist() for a, b in zip(found.firsts[:-1], found.firsts[1:], strict=True)]
    assert rows == wanted and found.ends.tolist() == [5, 5]
    assert Ends(bos=None, eos=None).told(tokens) is None
