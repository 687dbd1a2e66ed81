"""Checkpoints of both kinds are read without a process group, and what is no checkpoint is refused."""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import Shard, distribute_tensor

from shear_lit.theory.shape import Axis
from shear_lit.training.checkpoints import CheckpointError, CheckpointFacts, read_checkpoint, read_facts
from tests import tiny

KINDS = ["step=000007.ckpt", "step=000007"]


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "source"
    network = tiny.write_source(directory, tiny.config())
    return directory, network


@pytest.fixture
def content(source):
    directory, network = source
    gates = tiny.log_alpha(tiny.config())
    return tiny.checkpoint(network, tiny.facts(tiny.config(), directory), gates)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_gives_model_gates_and_facts(tmp_path, source, content, kind):
    directory, network = source
    read = read_checkpoint(tiny.write_checkpoint(tmp_path / kind, content))
    expected = {name: tensor.detach() for name, tensor in network.named_parameters()}
    assert read.tensors.keys() == expected.keys()  # a tied head once
    assert all(torch.equal(read.tensors[name], expected[name]) for name in expected)
    assert all(
        torch.equal(rows, read.log_alpha[axis]) for axis, rows in tiny.log_alpha(tiny.config()).items()
    )
    assert read.facts == tiny.facts(tiny.config(), directory)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_without_gates_is_plain(tmp_path, source, kind):
    directory, network = source
    known = tiny.facts(tiny.config(), directory, target=None)
    read = read_checkpoint(tiny.write_checkpoint(tmp_path / kind, tiny.checkpoint(network, known, {})))
    assert (read.log_alpha, read.facts.target, read.facts.axes) == ({}, None, ())


def test_sharded_reading_leaves_the_optimizer_on_disk(tmp_path, content, monkeypatch):
    path = tiny.write_checkpoint(tmp_path / "step=1", content)
    asked = {}
    load = torch.distributed.checkpoint.load
    monkeypatch.setattr(
        torch.distributed.checkpoint, "load", lambda state, **kw: (asked.update(state), load(state, **kw))
    )
    read_checkpoint(path)
    assert asked and not any(name.startswith(("optimizer", "state_dict.multipliers")) for name in asked)


def test_single_file_is_mapped_and_not_copied(tmp_path, content):
    path = tiny.write_checkpoint(tmp_path / "a.ckpt", content)
    read = read_checkpoint(path)
    lines = [
        line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))
    ]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    for tensor in read.tensors.values():
        assert any(start <= tensor.data_ptr() < end for start, end in ranges)


def test_facts_survive_their_entry(source):
    directory, _ = source
    for target in (tiny.TARGET, None):
        known = tiny.facts(tiny.config(), directory, target=target)
        assert CheckpointFacts.from_entry(known.to_entry(), "x") == known
    periodic = tiny.facts(tiny.config(), directory, keep_layer_period=True, ordered_by="taylor")
    assert CheckpointFacts.from_entry(periodic.to_entry(), "x") == periodic


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "step=9.ckpt")


def test_half_written_directory_is_refused(tmp_path, content):
    path = tiny.write_checkpoint(tmp_path / "step=1", content)
    (path / "meta.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no meta\.pt.*half-written"):
        read_checkpoint(path)


@pytest.mark.parametrize("part", [".metadata", "__0_0.distcp"])
def test_directory_with_a_part_missing_is_refused(tmp_path, content, part):
    path = tiny.write_checkpoint(tmp_path / "step=1", content)
    (path / part).unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_truncated_file_is_refused(tmp_path, content):
    path = tiny.write_checkpoint(tmp_path / "a.ckpt", content)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_of_another_program_is_refused(tmp_path, content, kind):
    del content["shear_lit"]
    with pytest.raises(CheckpointError, match="not written by this package"):
        read_checkpoint(tiny.write_checkpoint(tmp_path / kind, content))


def test_checkpoint_of_another_format_is_refused(tmp_path, content):
    content["shear_lit"]["format"] = 2
    with pytest.raises(CheckpointError, match="format 2, and this version reads 1"):
        read_checkpoint(tiny.write_checkpoint(tmp_path / "a.ckpt", content))


def test_incomplete_facts_are_refused(tmp_path, content):
    del content["shear_lit"]["tokens"]
    with pytest.raises(CheckpointError, match="incomplete"):
        read_checkpoint(tiny.write_checkpoint(tmp_path / "a.ckpt", content))


def test_checkpoint_of_another_shape_is_refused(tmp_path, content):
    content["shear_lit"]["config"]["hidden_size"] = 64
    with pytest.raises(CheckpointError, match="of another size"):
        read_checkpoint(tiny.write_checkpoint(tmp_path / "a.ckpt", content))


def test_missing_tensor_is_refused(tmp_path, content):
    del content["state_dict"]["model.model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing: model\.norm\.weight"):
        read_checkpoint(tiny.write_checkpoint(tmp_path / "a.ckpt", content))


def test_missing_gates_are_refused(tmp_path, content):
    del content["state_dict"][f"gates.{Axis.HIDDEN.value}"]
    with pytest.raises(CheckpointError, match=r"gates: .*missing: hidden"):
        read_checkpoint(tiny.write_checkpoint(tmp_path / "a.ckpt", content))


def test_tied_head_that_drifted_from_its_embedding_is_refused(tmp_path, content):
    state = content["state_dict"]
    state["model.lm_head.weight"] = state["model.lm_head.weight"] + 1e-3
    with pytest.raises(CheckpointError, match="tied"):
        read_checkpoint(tiny.write_checkpoint(tmp_path / "a.ckpt", content))


def _save_as_two_processes(rank, path, content, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    state = {
        name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in content["state_dict"].items()
    }
    torch.distributed.checkpoint.save({"state_dict": state}, checkpoint_id=path)
    torch.distributed.barrier()
    os._exit(0)


def test_shards_of_two_processes_are_read_by_one(tmp_path, source, content):
    """Uneven shards included: the layers' gates are three."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "step=000007"
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_save_as_two_processes, args=(rank, path, content, port)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(list(path.glob("*.distcp"))) == 2
    torch.save({"shear_lit": content["shear_lit"]}, path / "meta.pt")
    read = read_checkpoint(path)
    for name, tensor in source[1].named_parameters():
        assert torch.equal(read.tensors[name], tensor)
    for axis, rows in tiny.log_alpha(tiny.config()).items():
        assert torch.equal(read.log_alpha[axis], rows)


@pytest.mark.parametrize("kind", KINDS)
def test_facts_are_read_without_weights(tmp_path, source, content, kind):
    path = tiny.write_checkpoint(tmp_path / kind, content)
    for shard in tmp_path.glob("step=000007/*.distcp"):
        shard.unlink()
    assert read_facts(path) == tiny.facts(tiny.config(), source[0])
