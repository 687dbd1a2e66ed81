"""Sharded checkpoints, written and read: what is read was compared with its checksum, and runs nothing."""

import io
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as sharded
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from shear_lit.disk.names import is_sha256
from shear_lit.training.records import DamagedRecord, check_record, load_file, mapped
from shear_lit.training.shard_index import INDEX, check_inside, check_places, index_checksum, read_index

META = "meta.pt"
"""The file of a sharded checkpoint that is written last, with what is not sharded."""
CHECKSUMS = "shear_lit_checksums"
"""Its entry with the checksum of the index; those of the shards are in their records, and its own in itself."""

_log = logging.getLogger(__name__)


class PlainPlanner(sharded.DefaultLoadPlanner):
    """Takes numbers and plain values from the entries that are no tensors; torch's own unpickles what they name."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put an entry such as a learning rate where the state has it."""
        name = read_item.dest_index.fqn
        *above, last = self.mappings[name] if self.flatten_state_dict else (name,)
        place: Any = self.original_state_dict if self.flatten_state_dict else self.state_dict
        for key in above:
            place = place[key]
        if isinstance(place[last], Tensor):
            raise DamagedRecord(f"{INDEX} says that {name} is no tensor")
        place[last] = torch.load(value, weights_only=True)


class CheckedReader(sharded.FileSystemReader):
    """Compares every record with its checksums, and with what the index says of it, before torch reads it."""

    def __init__(self, directory: Path, index: Metadata) -> None:
        super().__init__(directory)
        self._directory, self._index = directory, index
        self._entries: Mapping[str, Any] = index.state_dict_metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index, of which only torch's records were built."""
        self._index.storage_meta = StorageMeta(checkpoint_id=str(self._directory), load_id=self.load_id)
        return self._index

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Check and read the records of this process, one after the other."""
        files: dict[str, memoryview] = {}
        checked: set[MetadataIndex] = set()
        for item in plan.items:
            if item.storage_index not in checked:
                record = self.storage_data[item.storage_index]
                if record.relative_path not in files:
                    files = {record.relative_path: mapped(self._directory / record.relative_path)}
                self._check(item, files[record.relative_path][record.offset :][: record.length])
                checked.add(item.storage_index)
            super().read_data(replace(plan, items=[item]), planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _check(self, item: ReadItem, record: memoryview) -> None:
        name = item.storage_index.fqn
        try:
            found = list(check_record(record).values())
        except DamagedRecord as error:
            raise DamagedRecord(f"{name}: {error}") from error
        entry = self._entries[name]
        if item.type is LoadItemType.BYTE_IO or not isinstance(entry, TensorStorageMetadata):
            return
        if [numbers.dtype for numbers in found] != [entry.properties.dtype]:
            raise DamagedRecord(
                f"the record of {name} does not hold {entry.properties.dtype}, as {INDEX} says"
            )


def save_shards(
    state: dict[str, Any],
    directory: Path,
    beside: dict[str, Any],
    *,
    writes_meta: bool,
    no_dist: bool = False,
) -> None:
    """Write this process's part of ``state``, and when all have, on one of them what goes ``beside`` it.

    Args:
        state: State dicts by name, sharded or not.
        directory: Where; it is made.
        beside: What is not sharded.
        writes_meta: Whether this process writes it.
        no_dist: Whether there are no others.

    Raises:
        OSError and others: one of the processes could not write; all raise what it met.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        _expect_one_process()
        try:
            sharded.save(state, checkpoint_id=directory, no_dist=no_dist)
        except CheckpointException as error:  # no Exception, and no word of the disk
            cause, _ = next(iter(error.failures.values()))
            raise cause from error
    if writes_meta:
        torch.save({**beside, CHECKSUMS: {INDEX: index_checksum(directory)}}, directory / META)


def load_shards(
    state: dict[str, Any], directory: Path, checksum: str | None, *, no_dist: bool = False
) -> None:
    """Fill ``state`` with what the shards hold under its names; processes share out a tensor as they do then.

    Args:
        state: State dicts by name; its tensors are written into.
        directory: The checkpoint.
        checksum: That of its index, as ``checksum_in`` gives it.
        no_dist: Whether there is one process only.

    Raises:
        CheckpointException: one of the processes met what it cannot read.
        DamagedRecord, pickle.UnpicklingError and others: the index was changed, or says what is not so.
    """
    index = read_index(directory, checksum)
    check_places(index, directory)
    with warnings.catch_warnings():
        _expect_one_process()
        reader = CheckedReader(directory, index)
        sharded.load(state, storage_reader=reader, planner=PlainPlanner(), no_dist=no_dist)


def load_meta(directory: Path) -> dict[str, Any]:
    """What lies beside the shards.

    Raises:
        DamagedRecord, pickle.UnpicklingError and what torch raises: it cannot be read, or was changed.
    """
    check_inside(directory / META, directory)
    content = load_file(directory / META)
    if not isinstance(content, dict):
        raise DamagedRecord(f"{META} holds a {type(content).__name__}")
    return cast(dict[str, Any], content)


def checksum_in(meta: Mapping[str, Any], directory: Path) -> str | None:
    """The checksum of the index, as ``meta.pt`` has it; checkpoints of versions before 0.2 have none, and say so."""
    if CHECKSUMS not in meta:
        _log.info("checkpoint %s carries no checksum of its %s, which is not compared", directory, INDEX)
        return None
    checksum = meta[CHECKSUMS].get(INDEX) if isinstance(meta[CHECKSUMS], Mapping) else None
    if not is_sha256(checksum):
        raise DamagedRecord(f"{META} has no checksum of {INDEX} under {CHECKSUMS}")
    return cast(str, checksum)


def _expect_one_process() -> None:
    """Where there is one process, torch warns of what is asked for."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
