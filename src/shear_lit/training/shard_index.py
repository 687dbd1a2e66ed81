"""The index of a sharded checkpoint, which says what lies where: held to what may be so before anything is read by it.

torch reads it by unpickling; here only torch's records are built.
"""

import hashlib
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from shear_lit.disk.names import is_elsewhere, is_plain_name
from shear_lit.disk.reading import SMALL_FILE_BYTES, read_small
from shear_lit.training.pickles import unpickle_index
from shear_lit.training.records import DamagedRecord

INDEX = ".metadata"
"""The file of a sharded checkpoint that says which tensor lies where."""


def index_checksum(directory: Path) -> str:
    """The SHA-256 of the index that lies in ``directory``."""
    return hashlib.sha256(_content(directory)).hexdigest()


def read_index(directory: Path, checksum: str | None) -> Metadata:
    """The index of the shards in ``directory``; what it says of files is compared with them by ``check_places``.

    Args:
        directory: The checkpoint.
        checksum: What ``index_checksum`` gave when it was written; None of a checkpoint that carries none.

    Raises:
        DamagedRecord, pickle.UnpicklingError, OSError, EOFError and others: it was changed, names something else than
            torch's records, or says what cannot be.
    """
    content = _content(directory)
    if checksum is not None and hashlib.sha256(content).hexdigest() != checksum:
        raise DamagedRecord(f"the bytes of {INDEX} are not those that were written (their checksum differs)")
    index = unpickle_index(content)
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise DamagedRecord(f"{INDEX} is no index of shards")
    for record in index.storage_data.values():
        _check_record(record)
    for name, entry in index.state_dict_metadata.items():
        _check_entry(name, entry, index.storage_data)
    return index


def check_places(index: Metadata, directory: Path) -> None:
    """Refuse an index whose records do not lie in the files of ``directory``, each for itself.

    Raises:
        DamagedRecord: one leads out of the directory, lies beyond the end of its file, or over another.
        OSError: a file is missing.
    """
    by_file: dict[str, list[tuple[int, int]]] = {}
    for record in index.storage_data.values():
        by_file.setdefault(record.relative_path, []).append((record.offset, record.offset + record.length))
    for name, places in by_file.items():
        file = directory / name
        check_inside(file, directory)
        size = file.stat().st_size
        if any(end > size for _, end in places):
            raise DamagedRecord(f"{name} has {size:,} bytes, and {INDEX} names records beyond them")
        if any(end > start for (_, end), (start, _) in pairwise(sorted(places))):
            raise DamagedRecord(f"{INDEX} names records of {name} that lie over one another")


def check_inside(file: Path, directory: Path) -> None:
    """Refuse a file of a checkpoint that is a link to what does not belong to it.

    Raises:
        DamagedRecord: it leads out of the directory.
    """
    if is_elsewhere(file, directory):
        raise DamagedRecord(f"{file.name} is a link that leads out of the checkpoint")


def _content(directory: Path) -> bytes:
    check_inside(directory / INDEX, directory)
    # Each entry of an index describes a record of a thousand bytes and more.
    shards = sum(file.stat().st_size for file in directory.glob("*.distcp"))
    return read_small(directory / INDEX, limit=max(SMALL_FILE_BYTES, shards // 100))


def _check_record(record: Any) -> None:
    """Refuse what is no place inside a file of the directory."""
    if (
        not is_plain_name(record.relative_path)
        or not _are_sizes((record.offset, record.length))
        or record.transform_descriptors
    ):
        raise DamagedRecord(
            f"{INDEX} names a record in {str(record.relative_path)[:80]!r} from {str(record.offset)[:30]} of "
            f"{str(record.length)[:30]} bytes, which is no place in the checkpoint"
        )


def _check_entry(name: str, entry: Any, records: dict[Any, Any]) -> None:
    """Refuse an entry of which a part has no record, or a record that is too small for it."""
    if isinstance(entry, BytesStorageMetadata):
        if MetadataIndex(name) not in records:
            raise DamagedRecord(f"{INDEX} has no record of {name}")
        return
    if not isinstance(entry, TensorStorageMetadata) or not isinstance(entry.properties.dtype, torch.dtype):
        raise DamagedRecord(f"{INDEX} says nothing of what {name} is")
    _check_pieces(name, entry)
    for piece in entry.chunks:
        record = records.get(MetadataIndex(name, piece.offsets))
        needed = math.prod(piece.sizes) * entry.properties.dtype.itemsize
        if record is None or needed > record.length:
            has = "none" if record is None else f"{record.length:,}"
            raise DamagedRecord(f"{INDEX} claims {needed:,} bytes of {name}, and its record has {has}")


def _check_pieces(name: str, entry: TensorStorageMetadata) -> None:
    """Refuse pieces that do not make up their tensor: one behind the other along its first dimension."""
    size = tuple(entry.size)
    pieces = sorted((tuple(piece.offsets), tuple(piece.sizes)) for piece in entry.chunks)
    fits = _are_sizes(size) and all(
        _are_sizes((*offsets, *sizes))
        and len(offsets) == len(sizes) == len(size)
        and not any(offsets[1:])
        and sizes[1:] == size[1:]
        for offsets, sizes in pieces
    )
    if fits and size:
        ends = [0, *(offsets[0] + sizes[0] for offsets, sizes in pieces)]
        fits = [offsets[0] for offsets, _ in pieces] == ends[:-1] and ends[-1] == size[0]
    if not fits or not pieces:
        raise DamagedRecord(f"{INDEX} lists pieces of {name} that do not make up a tensor of size {size}")


def _are_sizes(values: Iterable[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
