"""Checkpoints that were changed, or that would run code where they are unpickled."""

import io
import os
import pickle
import struct
import zipfile
from dataclasses import replace

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from shear_lit.training.shard_index import INDEX, index_checksum
from shear_lit.training.shards import CHECKSUMS, META

SHARD = "__0_0.distcp"


class RunsCode:
    """Unpickling this makes a directory."""

    def __init__(self, made):
        self.made = str(made)

    def __reduce__(self):
        return os.mkdir, (self.made,)


def index_of(directory):
    return pickle.loads((directory / INDEX).read_bytes())  # noqa: S301  (our own)


def write_index(directory, index):
    """Write an index, and seal it as whoever makes a checkpoint can."""
    (directory / INDEX).write_bytes(pickle.dumps(index))
    meta = torch.load(directory / META, weights_only=True)
    torch.save({**meta, CHECKSUMS: {INDEX: index_checksum(directory)}}, directory / META)


def append_record(directory, value):
    """Put ``value`` behind the shards, as ``torch.save`` does, and say where it is."""
    record = io.BytesIO()
    torch.save(value, record)
    shard = directory / SHARD
    offset = shard.stat().st_size
    with shard.open("ab") as file:
        file.write(record.getvalue())
    return offset, len(record.getvalue())


def point_at_code(directory, name, made):
    """Make the entry ``name`` one of bytes, in a record that runs code."""
    index = index_of(directory)
    offset, length = append_record(directory, RunsCode(made))
    for key in [key for key in index.storage_data if key.fqn == name]:
        record = index.storage_data.pop(key)
    index.storage_data[MetadataIndex(name)] = replace(
        record, relative_path=SHARD, offset=offset, length=length
    )
    index.state_dict_metadata[name] = BytesStorageMetadata()
    write_index(directory, index)


def hostile_file(path, made):
    content = torch.load(path, weights_only=True)
    torch.save({**content, "loops": RunsCode(made)}, path)


def hostile_legacy_file(path, made):
    content = torch.load(path, weights_only=True)
    torch.save({**content, "loops": RunsCode(made)}, path, _use_new_zipfile_serialization=False)


def hostile_pickle(path, made):
    path.write_bytes(pickle.dumps(RunsCode(made)))


def entry_like(directory, start, end=""):
    names = index_of(directory).state_dict_metadata
    return next(name for name in names if name.startswith(start) and name.endswith(end))


def flip(path, place):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def numbers_of(record, part="data/0"):
    """Where a part's bytes begin in a zip that torch wrote, and how many there are."""
    with zipfile.ZipFile(io.BytesIO(record)) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(part))
    name, extra = struct.unpack_from("<2H", record, info.header_offset + 26)
    return info.header_offset + 30 + name + extra, info.file_size


def flip_in_record(directory, name, part, rank=""):
    """Change a byte in the record of an entry, or in the piece of it that ``rank`` wrote."""
    records = index_of(directory).storage_data.items()
    record = next(
        info for key, info in records if key.fqn == name and info.relative_path.startswith(f"__{rank}")
    )
    shard = directory / record.relative_path
    content = shard.read_bytes()[record.offset :][: record.length]
    start, size = numbers_of(content, part)
    flip(shard, record.offset + start + size // 2)


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """Write a zip again, with a change of its pickle, and checksums that are right."""
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
