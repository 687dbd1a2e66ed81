"""Several processes that measure one model together: each has all of it, and answers a part of the requests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_LONGEST = timedelta(hours=12)
_FIRST_SIZE = {"cuda": 64}
"""Requests of one forward pass that are tried first, by device; 8 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that measure together; alone by default."""

    rank: int = 0
    """Its number, from 0."""
    size: int = 1
    """How many there are."""
    group: Any = None
    """What they talk through; none: the process group of all."""

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def gather(self, found: Any) -> list[Any]:
        """What every process found, in the order of their numbers."""
        if self.size == 1:
            return [found]
        everywhere: list[Any] = [None] * self.size
        dist.all_gather_object(everywhere, found, group=self.group)
        return everywhere

    def from_first(self, found: Any) -> Any:
        """What the first process found."""
        return self.gather(found if self.first else None)[0]


ALONE = Processes()


@contextmanager
def processes_of_environment() -> Iterator[Processes]:
    """The processes that torchrun or SLURM started this one with; they end together."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    dist.init_process_group("gloo", timeout=_LONGEST)
    try:
        yield Processes(rank=dist.get_rank(), size=size)
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The device of this process, where a machine has several of the kind that is meant."""
    if device.type != "cuda":
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def first_batch_size(device: torch.device) -> int:
    """The batch that is tried first; it is halved until it fits."""
    return _FIRST_SIZE.get(device.type, 8)
