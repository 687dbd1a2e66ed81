"""Sequences by (domain, sequence): those that litdata reads, and never from a chunk that changed."""

import shutil
from pathlib import Path

import pytest
import torch
from litdata import StreamingDataset, TokensLoader

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared import chunk_reading as chunks_module
from shear_lit.data.prepared import reading as reading_module
from shear_lit.data.prepared import verified
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.store import SequenceStore
from tests.data.conftest import LENGTH, write_prepared


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def read_by_litdata(folder):
    dataset = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=LENGTH), max_pre_download=8)
    return [dataset[number].tolist() for number in range(len(dataset))]


@pytest.mark.filterwarnings("ignore:max_cache_size is unset")
def test_sequences_are_those_that_litdata_reads(prepared):
    store = SequenceStore(prepared, "pretrain")
    for domain, name in enumerate(store.domains):
        ours = [store[domain, number]["tokens"][0].tolist() for number in range(store.sequences(domain))]
        assert ours == read_by_litdata(prepared / name / "pretrain")
        assert ours != read_by_litdata(prepared / "b" / "pretrain") or name == "b"


@pytest.mark.parametrize("token_type", ["uint16", "uint32"])
def test_both_token_types_are_read(tmp_path, token_type):
    directory = write_prepared(tmp_path / "data", {"a": 7}, token_type=token_type)
    assert SequenceStore(directory, "prune")[0, 6]["tokens"].tolist() == [[0, 6, 0, 0]]


def test_sequence_that_is_not_there_is_refused(prepared):
    store = SequenceStore(prepared, "prune")
    for sequence in (-1, 13):
        with pytest.raises(IndexError, match="a/prune has sequences 0 to 12"):
            store[0, sequence]


@pytest.mark.parametrize("place", [0, 5, 30, -1], ids=["count", "offsets", "tokens", "end"])
def test_flipped_byte_stops_the_run_with_the_name_of_the_chunk(copied, place):
    flip(copied / "b" / "prune" / "chunk-0-3.bin", place)
    store = SequenceStore(copied, "prune")
    assert store[1, 14]["tokens"][0, 1] == 14
    for _ in range(2):
        with pytest.raises(DamagedData, match=r"b/prune/chunk-0-3\.bin: the file's content changed.*--check"):
            store[1, 15]


def test_flipped_byte_stops_a_run_with_workers(copied):
    flip(copied / "b" / "prune" / "chunk-0-3.bin", 40)
    store = SequenceStore(copied, "prune")
    schedule = MixtureSchedule(store.chunk_sizes, global_batch=8, seed=0)
    run = MixtureLoader(store, schedule, [0, 1, 0], steps=5, update_every_steps=5, micro_batch=4, workers=1)
    with pytest.raises(DamagedData, match=r"b/prune/chunk-0-3\.bin"):
        list(run)


def test_without_verification_the_flipped_byte_would_be_read(copied, monkeypatch):
    """What the tests above hold back."""
    monkeypatch.setattr(chunks_module, "content_problem", lambda *_: None)
    flip(copied / "b" / "prune" / "chunk-0-3.bin", -1)
    assert SequenceStore(copied, "prune")[1, 19]["tokens"].tolist() == [[1, 19, 0, 256]]


def test_each_chunk_is_verified_once(copied, monkeypatch):
    seen = []
    whole = chunks_module.content_problem
    monkeypatch.setattr(
        chunks_module, "content_problem", lambda p, *rest: seen.append(p.name) or whole(p, *rest)
    )
    store = SequenceStore(copied, "prune")
    for _ in range(3):
        for sequence in range(40):
            store[1, sequence]
    assert seen == [f"chunk-0-{number}.bin" for number in range(8)]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_files_stay_open(prepared, monkeypatch):
    monkeypatch.setattr(chunks_module, "_OPEN_FILES", 3)
    before = open_files()
    store = SequenceStore(prepared, "prune")
    read = [store[d, n]["tokens"][0].tolist() for n in range(13) for d in range(3)]
    assert read == [[d, n, 0, 0] for n in range(13) for d in range(3)]
    assert open_files() <= before + 3
    del store
    assert open_files() == before


def test_batch_of_several_domains_keeps_its_order_and_its_padding(prepared):
    batch = SequenceStore(prepared, "prune").__getitems__([(2, 3), (0, 1), (-2, 5)])
    assert batch["tokens"][:, :2].tolist() == [[2, 3], [0, 1], [1, 5]]
    assert batch["domain"].tolist() == [2, 0, -1] and batch["tokens"].dtype == torch.int64


def test_chunk_that_is_cut_while_it_is_open_stops_the_run(copied):
    store = SequenceStore(copied, "prune")
    path = copied / "a" / "prune" / "chunk-0-0.bin"
    assert store[0, 4]["tokens"][0, 1] == 4
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 3)
    with pytest.raises(DamagedData, match=r"a/prune/chunk-0-0\.bin: the file was cut off"):
        store[0, 4]


def test_a_chunk_is_hashed_once_for_all_processes_of_a_node(copied, tmp_path, monkeypatch):
    """Two stores of one process know nothing of each other, as processes do; what was written to is hashed again."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    seen, whole = [], chunks_module.content_problem
    monkeypatch.setattr(
        chunks_module, "content_problem", lambda p, *rest: seen.append(p.name) or whole(p, *rest)
    )
    for _ in range(2):
        assert SequenceStore(copied, "prune")[1, 15]["tokens"][0, 1] == 15
    assert seen == ["chunk-0-3.bin"]
    flip(copied / "b" / "prune" / "chunk-0-3.bin", -1)
    with pytest.raises(DamagedData, match="content changed"):
        SequenceStore(copied, "prune")[1, 15]


def test_without_a_record_each_store_verifies_for_itself(copied, monkeypatch):
    monkeypatch.setattr(verified, "_folder", lambda runtime: None)
    for _ in range(2):
        assert SequenceStore(copied, "prune")[1, 15]["tokens"][0, 1] == 15
    flip(copied / "b" / "prune" / "chunk-0-3.bin", -1)
    with pytest.raises(DamagedData, match="content changed"):
        SequenceStore(copied, "prune")[1, 15]


@pytest.mark.parametrize("rank", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_one_process_of_a_node_looks_at_the_files(copied, monkeypatch, rank):
    """The others believe the manifest, and find what is wrong with a file when they open it."""
    for number in ("0", "1"):
        (copied / "b" / "prune" / "chunk-0-3.bin").unlink(missing_ok=True)
        monkeypatch.setenv(rank, number)
        if number == "0":
            with pytest.raises(DataError, match=r"b/prune.*chunk-0-3\.bin"):
                SequenceStore(copied, "prune")
        else:
            store = SequenceStore(copied, "prune")
            assert store[1, 1]["tokens"][0, 1] == 1
            with pytest.raises(DamagedData, match=r"b/prune/chunk-0-3\.bin: .*missing"):
                store[1, 15]


def test_stats_at_the_start_are_once_a_node(prepared, monkeypatch):
    looked, whole = [], reading_module._split_problem
    monkeypatch.setattr(
        reading_module, "_split_problem", lambda *those: looked.append(those[1]) or whole(*those)
    )
    for number in range(8):
        monkeypatch.setenv("LOCAL_RANK", str(number))
        SequenceStore(prepared, "prune")
    assert len(looked) == len(set(looked)) == 9  # 3 domains of 3 splits
