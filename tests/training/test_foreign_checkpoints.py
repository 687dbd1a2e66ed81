"""Checkpoints that come from elsewhere: nothing in them runs, nothing leads out of them, and changed bytes are seen."""

import contextlib
import io
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as sharded
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from shear_lit import cli
from shear_lit.commands.export import export
from shear_lit.training import checkpoints, shards
from shear_lit.training.checkpoints import CheckpointError, read_checkpoint
from shear_lit.training.errors import reading
from shear_lit.training.shard_index import INDEX, read_index
from shear_lit.training.shards import CHECKSUMS, META, checksum_in, load_meta, load_shards
from shear_lit.training.strategies import WholeFileIO
from tests import tiny
from tests.bad_inputs.checkpoints import (
    SHARD,
    append_record,
    entry_like,
    flip,
    flip_in_record,
    hostile_file,
    hostile_legacy_file,
    hostile_pickle,
    index_of,
    numbers_of,
    point_at_code,
    rewritten,
    write_index,
)
from tests.memory import peak_bytes
from tests.training.forks import run

SHARDED = ["--trainer.strategy=fsdp2", "--trainer.devices=2", "--checkpoint.every_steps=1"]
RATE = "optimizer_0.param_groups.rate"
MOMENT = "optimizer_0.state.exp_avg"
WEIGHT = "state_dict.model.model.norm.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small checkpoint of either kind, made once."""
    folder = tmp_path_factory.mktemp("written")
    network = tiny.write_source(folder / "source", tiny.config())
    content = tiny.checkpoint(
        network, tiny.facts(tiny.config(), folder / "source"), tiny.log_alpha(tiny.config())
    )
    moments = {"exp_avg": torch.arange(64.0)}
    content["optimizer_states"] = [{"state": moments, "param_groups": {"rate": 0.125}}]
    for name in ("step=000007.ckpt", "step=000007"):
        tiny.write_checkpoint(folder / name, content)
    return folder


@pytest.fixture
def shards_of(written, tmp_path):
    return Path(shutil.copytree(written / "step=000007", tmp_path / "step=000007"))


@pytest.fixture
def file_of(written, tmp_path):
    return Path(shutil.copy(written / "step=000007.ckpt", tmp_path / "step=000007.ckpt"))


def resume(directory):
    """Read all entries of a checkpoint, as a resume does."""
    with reading(directory):
        checksum = checksum_in(load_meta(directory), directory)
        state = {
            name: torch.zeros(entry.size) if isinstance(entry, TensorStorageMetadata) else None
            for name, entry in read_index(directory, checksum).state_dict_metadata.items()
        }
        load_shards(state, directory, checksum, no_dist=True)
    return state


def resume_file(path):
    return WholeFileIO().load_checkpoint(path, weights_only=False)


def refused(read, path):
    with pytest.raises(CheckpointError) as found:
        read(path)
    message = str(found.value)
    assert message.startswith(f"checkpoint={str(path)!r} cannot be used: ") and "\n" not in message
    assert "weights_only" not in message and "another checkpoint of the run" in message
    return message


def test_whole_checkpoints_are_read(shards_of, file_of):
    state = resume(shards_of)
    assert state[RATE] == 0.125 and torch.equal(state[MOMENT], torch.arange(64.0))
    content = resume_file(file_of)
    assert content["optimizer_states"][0]["param_groups"] == {"rate": 0.125}
    assert torch.equal(state[WEIGHT], content["state_dict"]["model.model.norm.weight"])


# Code


def test_entry_of_bytes_that_runs_code_is_refused(shards_of, tmp_path):
    point_at_code(shards_of, RATE, tmp_path / "made")
    assert "more than numbers and plain values, which is not read (posix.mkdir)" in refused(resume, shards_of)
    assert not (tmp_path / "made").exists()


def test_torchs_own_planner_would_run_it(shards_of, tmp_path, monkeypatch):
    """The twin."""
    point_at_code(shards_of, RATE, tmp_path / "made")
    monkeypatch.setattr(shards, "PlainPlanner", sharded.DefaultLoadPlanner)
    resume(shards_of)
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("read", [resume_file, read_checkpoint])
@pytest.mark.parametrize("write", [hostile_file, hostile_legacy_file, hostile_pickle])
def test_file_that_runs_code_is_refused(file_of, tmp_path, write, read):
    write(file_of, tmp_path / "made")
    refused(read, file_of)
    assert not (tmp_path / "made").exists()
    if write is hostile_file:  # the twin
        torch.load(file_of, weights_only=False)
        assert (tmp_path / "made").exists()


def commands_refused(commands):
    """What each of ``commands`` ends with, in one process."""
    ends = []
    for arguments in commands:
        try:
            cli.main(arguments)
            ends.append("")
        except SystemExit as end:
            ends.append(str(end.__cause__))
    return ends


def commands_break(commands):
    """The same with torch's planner, after which a command may fail in its own way."""
    shards.PlainPlanner = sharded.DefaultLoadPlanner
    for arguments in commands:
        with contextlib.suppress(BaseException):
            cli.main(arguments)


def commands(toy, folder, checkpoints, *flags):
    """A resume from each of the checkpoints, and validations of the same."""
    fits = [
        [*toy.arguments("prune", folder / f"run-{number}"), *flags, f"--ckpt_path={path}"]
        for number, path in enumerate(checkpoints)
    ]
    return fits, [["validate", *arguments[1:]] for arguments in fits]


@pytest.fixture
def of_a_run(whole, tmp_path):
    """The directory of shards that a run of two processes left, as often as it is asked for."""
    source = whole("prune", *SHARDED, processes=2)[0] / "checkpoints" / "step=000004"
    return lambda name: Path(shutil.copytree(source, tmp_path / name / "step=000004"))


def test_no_command_runs_what_a_sharded_checkpoint_holds(toy, of_a_run, tmp_path):
    rates, weights = of_a_run("rates"), of_a_run("weights")
    made = tmp_path / "made"
    point_at_code(rates, entry_like(rates, "optimizer_0.param_groups", ".lr"), made)
    point_at_code(weights, entry_like(weights, "state_dict.model"), made)
    fits, validations = commands(toy, tmp_path, [rates, weights], "--trainer.strategy=fsdp2")
    (ends,) = run(commands_refused, tmp_path / "log", commands=[*fits, validations[1]])
    assert not made.exists()
    assert "posix.mkdir" in ends[0] and "is no tensor" in ends[1] and "is no tensor" in ends[2]
    with pytest.raises(CheckpointError, match="missing"):
        export(str(weights), str(tmp_path / "out"))
    assert not made.exists()
    # The twin: torch's planner in the place of ours.
    run(commands_break, tmp_path / "twin", commands=[validations[1]])
    assert made.exists()


def test_no_command_runs_what_a_file_holds_or_takes_changed_bytes(toy, whole, tmp_path):
    made = tmp_path / "made"
    hostile, changed = tmp_path / "hostile" / "step=000004.ckpt", tmp_path / "changed" / "step=000004.ckpt"
    for path in (hostile, changed):
        path.parent.mkdir()
        shutil.copy(whole("prune")[0] / "checkpoints" / "step=000004.ckpt", path)
    hostile_file(hostile, made)
    start, _ = numbers_of(changed.read_bytes(), "data/40")
    flip(changed, start)
    fits, validations = commands(toy, tmp_path, [hostile, changed])
    spread = [*validations[1], "--trainer.strategy=fsdp2"]
    (ends,) = run(commands_refused, tmp_path / "log", commands=[*fits, *validations, spread])
    for end, words in zip(ends, ["posix.mkdir", "checksum differs"] * 2 + ["checksum differs"], strict=True):
        assert words in end and "\n" not in end, ends
    for path, words in ((hostile, r"posix\.mkdir"), (changed, "checksum differs")):
        with pytest.raises(CheckpointError, match=words):
            export(str(path), str(tmp_path / "out"))
    assert not made.exists()


# Changed bytes


RECORDS = [(WEIGHT, "data/0"), (WEIGHT, "data.pkl"), (MOMENT, "data/0"), (RATE, "data.pkl")]


@pytest.mark.parametrize(("name", "part"), RECORDS)
def test_changed_record_is_refused_by_who_reads_it(shards_of, name, part):
    flip_in_record(shards_of, name, part)
    message = refused(resume, shards_of)
    assert name in message and f"the bytes of {part} are not those that were written" in message
    if name == WEIGHT:
        assert message == refused(read_checkpoint, shards_of)
    else:  # an export reads no optimizer
        assert read_checkpoint(shards_of).tensors


def test_changed_weight_would_be_read_by_torch(shards_of, monkeypatch):
    """The twin: torch compares no checksum."""
    before = resume(shards_of)[WEIGHT]
    flip_in_record(shards_of, WEIGHT, "data/0")
    monkeypatch.setattr(shards.CheckedReader, "_check", lambda self, item, record: None)
    assert not torch.equal(resume(shards_of)[WEIGHT], before)


@pytest.mark.parametrize("read", [resume, read_checkpoint])
def test_changed_index_is_refused(shards_of, read):
    index = shards_of / INDEX
    for place in range(0, index.stat().st_size, 97):
        flip(index, place)
        assert f"the bytes of {INDEX} are not" in refused(read, shards_of)
        flip(index, place)


def test_changed_index_of_an_earlier_version_is_not_seen_and_is_said(shards_of, caplog):
    meta = torch.load(shards_of / META, weights_only=True)
    del meta[CHECKSUMS]
    torch.save(meta, shards_of / META)
    with caplog.at_level("INFO"):
        assert resume(shards_of)[RATE] == 0.125
    assert caplog.text.count("carries no checksum") == 1


def places_in_file(path):
    """A byte of every part of a file, of the header of every part, and of the list of parts."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<2H", content, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            yield from (start, start + info.file_size - 1) if info.file_size else ()
            # Signature, flags, method, lengths, name.
            yield from (info.header_offset + place for place in (0, 6, 8, 26, 28, 31))
        # Method, checksum, sizes, length of the name, where the part lies, its name.
        yield from (archive.start_dir + place for place in (0, 10, 16, 20, 24, 28, 42, 47))
    yield from (len(content) - place for place in (22, 21, 2, 42, 98))


@pytest.mark.parametrize("read", [resume, read_checkpoint])
def test_changed_file_beside_the_shards_is_refused(shards_of, read):
    for place in places_in_file(shards_of / META):
        flip(shards_of / META, place)
        assert META in refused(read, shards_of), place
        flip(shards_of / META, place)


@pytest.mark.parametrize("read", [resume_file, read_checkpoint])
def test_changed_file_is_refused(file_of, read):
    """Weights, the optimizer's state, what is beside them, and what says where they lie."""
    for place in list(places_in_file(file_of))[::3]:
        flip(file_of, place)
        refused(read, file_of)
        flip(file_of, place)
    read(file_of)


def test_hundred_zeros_would_be_read_by_torch(file_of):
    """The twin of the above."""
    content = file_of.read_bytes()
    start, _ = numbers_of(content, "data/1")
    file_of.write_bytes(content[:start] + bytes(100) + content[start + 100 :])
    torch.load(file_of, weights_only=True, mmap=True)
    refused(read_checkpoint, file_of)
    refused(resume_file, file_of)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_file_that_was_cut_short_is_refused(file_of, shards_of, keep):
    for path, reads in ((file_of, file_of), (shards_of / META, shards_of), (shards_of / SHARD, shards_of)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
        for read in (read_checkpoint, resume if reads.is_dir() else resume_file):
            refused(read, reads)
        path.write_bytes(whole)


def test_every_process_refuses_what_one_of_them_reads_changed(toy, of_a_run, tmp_path):
    paths = [of_a_run(name) for name in ("moment", "weight")]
    flip_in_record(paths[0], entry_like(paths[0], "optimizer_0.state", "exp_avg"), "data/0", rank=1)
    flip_in_record(paths[1], entry_like(paths[1], "state_dict.model"), "data/0", rank=1)
    fits, validations = commands(toy, tmp_path, paths, *SHARDED)
    ranks = run(commands_refused, tmp_path / "log", processes=2, commands=[fits[0], validations[1]])
    for ends in ranks:
        assert len(ends) == 2
        assert all("their checksum differs" in end and "\n" not in end for end in ends), ends
    with pytest.raises(CheckpointError, match="checksum differs"):
        export(str(paths[1]), str(tmp_path / "out"))


# Places and sizes


def changed_record(**values):
    def change(index, directory):
        key = next(key for key in index.storage_data if key.fqn == WEIGHT)
        index.storage_data[key] = replace(index.storage_data[key], **values)

    return change


def linked_outside(index, directory):
    outside = directory.parent / "outside.distcp"
    shutil.move(directory / SHARD, outside)
    (directory / SHARD).symlink_to(outside)


def record_twice(index, directory):
    """One record for two entries, which would take the memory of two."""
    first, second = (key for key in index.storage_data if key.fqn in (WEIGHT, MOMENT))
    index.storage_data[first] = index.storage_data[second]


def changed_entry(size=(32,), offsets=((0,),), sizes=((32,),), dtype=torch.float32):
    def change(index, directory):
        index.state_dict_metadata[WEIGHT] = TensorStorageMetadata(
            properties=TensorProperties(dtype=dtype),
            size=torch.Size(size),
            chunks=[
                ChunkStorageMetadata(offsets=torch.Size(offset), sizes=torch.Size(piece))
                for offset, piece in zip(offsets, sizes, strict=True)
            ],
        )

    return change


def without_record(index, directory):
    del index.storage_data[next(key for key in index.storage_data if key.fqn == WEIGHT)]


def without_rate(index, directory):
    del index.storage_data[MetadataIndex(RATE)]


def of_another_kind(index, directory):
    index.state_dict_metadata[WEIGHT] = "a string"


HUGE = 10**12
PLACES = {
    "outside": (changed_record(relative_path="../outside.distcp"), "which is no place in the checkpoint"),
    "absolute": (changed_record(relative_path="/etc/passwd"), "which is no place in the checkpoint"),
    "no name": (changed_record(relative_path=7), "which is no place in the checkpoint"),
    "negative offset": (changed_record(offset=-1), "which is no place in the checkpoint"),
    "negative length": (changed_record(length=-1), "which is no place in the checkpoint"),
    "transformed": (changed_record(transform_descriptors=["zip"]), "which is no place in the checkpoint"),
    "beyond the end": (changed_record(offset=HUGE), "names records beyond them"),
    "longer than the file": (changed_record(length=HUGE), "names records beyond them"),
    "another's": (changed_record(offset=100), "lie over one another"),
    "twice": (record_twice, "lie over one another"),
    "link": (linked_outside, "a link that leads out of the checkpoint"),
    "huge": (changed_entry((HUGE,), sizes=((HUGE,),)), "claims 4,000,000,000,000 bytes"),
    "huge, of small pieces": (changed_entry((HUGE,)), "do not make up a tensor"),
    "hole": (changed_entry(offsets=((8,),), sizes=((24,),)), "do not make up a tensor"),
    "twice the same piece": (
        changed_entry(offsets=((0,), (0,)), sizes=((16,), (16,))),
        "do not make up a tensor",
    ),
    "negative size": (changed_entry((-32,), sizes=((-32,),)), "do not make up a tensor"),
    "piece at a column": (
        changed_entry((8, 4), offsets=((0, 2),), sizes=((8, 4),)),
        "do not make up a tensor",
    ),
    "narrow piece": (changed_entry((8, 4), offsets=((0, 0),), sizes=((8, 2),)), "do not make up a tensor"),
    "no piece of a scalar": (changed_entry((), offsets=(), sizes=()), "do not make up a tensor"),
    "no piece": (changed_entry(offsets=(), sizes=()), "do not make up a tensor"),
    "another dtype": (changed_entry(dtype=torch.int32), "does not hold torch.int32"),
    "no record": (without_record, "its record has none"),
    "no record of bytes": (without_rate, "has no record of"),
    "another kind": (of_another_kind, "says nothing of what"),
}


@pytest.mark.parametrize("case", PLACES)
def test_index_that_says_what_cannot_be_is_refused(shards_of, case):
    change, words = PLACES[case]
    index = index_of(shards_of)
    change(index, shards_of)
    write_index(shards_of, index)
    assert words in refused(read_checkpoint, shards_of)


def test_record_of_another_size_than_its_tensor_is_refused(shards_of):
    index = index_of(shards_of)
    offset, length = append_record(shards_of, torch.zeros(16))
    changed_record(offset=offset, length=length)(index, shards_of)
    write_index(shards_of, index)
    refused(read_checkpoint, shards_of)


def test_sizes_are_refused_before_they_are_given_memory(shards_of, monkeypatch):
    index = index_of(shards_of)
    changed_entry((16,), sizes=((16,),))(index, shards_of)
    write_index(shards_of, index)
    monkeypatch.setattr(checkpoints, "load_shards", None)
    assert "of another size: model.norm.weight" in refused(read_checkpoint, shards_of)


@pytest.mark.parametrize("what", ["index", "no mapping", "no checksum"])
def test_files_that_hold_something_else_are_refused(shards_of, what):
    if what == "index":
        write_index(shards_of, {"state_dict_metadata": {}})
    else:
        torch.save([] if what == "no mapping" else {CHECKSUMS: {INDEX: "0"}}, shards_of / META)
    words = {"index": "is no index", "no mapping": "holds a list", "no checksum": "has no checksum of"}
    assert words[what] in refused(resume, shards_of)


def test_device_is_no_checkpoint():
    with pytest.raises(CheckpointError, match="a pipe or a device"):
        read_checkpoint("/dev/null")


def test_lost_processes_are_no_damage(tmp_path):
    with pytest.raises(torch.distributed.DistError), reading(tmp_path):
        raise torch.distributed.DistError("connection closed")


def test_index_of_a_gigabyte_is_refused_without_the_memory(shards_of):
    os.truncate(shards_of / INDEX, 2**30)
    message, peak = peak_bytes(read_checkpoint, shards_of)
    assert "such a file has at most 67,108,864" in message and "\n" not in message
    assert peak < 100e6


def test_zip_that_python_wrote_is_read(file_of):
    """So that the refusals below are of what they change."""
    rewritten(file_of, lambda content: content)
    assert resume_file(file_of)["global_step"] == 7
    with warnings.catch_warnings():  # its numbers are not aligned, which reading a mapped file needs
        warnings.simplefilter("ignore")
        assert read_checkpoint(file_of).facts.step == 7


def claims_more(content):
    """Claim 2**40 numbers of a storage, in the place of 32."""
    at = content.index(b"K\x20t")
    return content[:at] + b"\x8a\x06" + (2**40).to_bytes(6, "little") + content[at + 2 :]


def test_numbers_that_are_claimed_and_not_there_are_refused(file_of):
    rewritten(file_of, claims_more)
    for read in (resume_file, read_checkpoint):
        message, peak = peak_bytes(read, file_of)
        assert "it claims 4,398,046,511,104 bytes of numbers" in message and "\n" not in message
        assert peak < 100e6


def numbers_twice(content):
    """Claim another size of the same numbers at their second mention."""
    unsized = pickle.dumps(0, protocol=2)[2:-1]
    return content[:-1] + unsized + b"0" + mention(4) + b"0" + mention(5) + b"0."


def mention(count):
    """A reference to numbers that torch stores under the key 0."""
    return b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK" + bytes([count]) + b"tQ"


def test_numbers_of_two_sizes_are_refused(file_of):
    rewritten(file_of, numbers_twice)
    assert "of two sizes" in refused(resume_file, file_of)


def relisted(content, change):
    """A file whose list of parts was changed, together with what says how long it is."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.start_dir
    return change(bytearray(content), start)


def part_over_another(content, start):
    """Let the second part begin where the first does, and be called the same in its own header."""
    name = struct.unpack_from("<H", content, start + 28)[0]
    first = bytes(content[start : start + 46 + name])
    second = start + len(first)
    size = struct.unpack_from("<H", content, second + 28)[0]
    return content[:second] + first + content[second + 46 + size :], len(first) - 46 - size


def test_part_that_is_listed_twice_is_refused(file_of):
    changed, longer = relisted(file_of.read_bytes(), part_over_another)
    end = len(changed) - 22
    for place, form in ((end - 98 + 22 + 40, "<Q"), (end + 12, "<L")):
        size = struct.unpack_from(form, changed, place)[0] + longer
        struct.pack_into(form, changed, place, size)
    struct.pack_into("<Q", changed, end - 20 + 8, end - 76)
    file_of.write_bytes(changed)
    assert "lie over one another" in refused(resume_file, file_of)


@pytest.mark.parametrize("read", [resume_file, read_checkpoint])
def test_compressed_file_is_refused(file_of, read):
    rewritten(file_of, lambda content: content, zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(read, file_of)


@pytest.mark.parametrize("read", [resume_file, read_checkpoint])
def test_tensor_that_shows_a_number_many_times_is_refused(file_of, read):
    content = torch.load(file_of, weights_only=True)
    content["state_dict"]["model.model.norm.weight"] = torch.ones(1).expand(HUGE)
    torch.save(content, file_of)
    assert "a tensor of size (1000000000000,) is made of 1 numbers" in refused(read, file_of)


@pytest.mark.parametrize("read", [resume_file, read_checkpoint])
def test_pickle_of_gigabytes_is_refused_without_the_memory(file_of, read):
    rewritten(file_of, lambda content: b"]" * 2**25 + content)
    message, peak = peak_bytes(read, file_of)
    assert "data.pkl is missing, or has more than" in message
    assert peak < 150e6


@pytest.mark.parametrize("name", [META, INDEX, SHARD])
@pytest.mark.parametrize("read", [resume, read_checkpoint])
def test_file_that_is_a_link_out_of_the_checkpoint_is_refused(shards_of, tmp_path, read, name):
    (shards_of / name).rename(tmp_path / "elsewhere")
    (shards_of / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name} is a link that leads out of the checkpoint" in refused(read, shards_of)


def test_shards_that_were_cut_are_refused_without_a_traceback_of_torch(shards_of, caplog, capfd):
    os.truncate(shards_of / SHARD, 100)
    message = refused(resume, shards_of)
    assert f"{SHARD} has 100 bytes, and {INDEX} names records beyond them. It is damaged" in message
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_run_that_cannot_begin_leaves_nothing(toy, whole, tmp_path):
    """Its checkpoint is read after its settings were written: the same command must work with another one."""
    path = tmp_path / "step=000004.ckpt"
    shutil.copy(whole("prune")[0] / "checkpoints" / "step=000004.ckpt", path)
    start, _ = numbers_of(path.read_bytes(), "data/40")
    flip(path, start)
    (tmp_path / "own").mkdir()
    for name, left in (("new", False), ("own", True)):
        arguments = [*toy.arguments("prune", tmp_path / name), f"--ckpt_path={path}"]
        (ends,) = run(commands_refused, tmp_path / f"log-{name}", commands=[arguments])
        assert "checksum differs" in ends[0]
        assert (tmp_path / name).exists() == left and not list((tmp_path / "own").iterdir())
