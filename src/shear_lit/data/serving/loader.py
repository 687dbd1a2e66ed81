"""What Lightning sees: micro-batches in an order that no worker, rank or resume changes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from shear_lit.data.errors import DataError
from shear_lit.data.order.schedule import MixtureSchedule, ScheduleState
from shear_lit.data.serving.batch import DomainBatch, predicted_count
from shear_lit.data.serving.prefetch import Prefetch
from shear_lit.data.serving.remote import is_first_of_node
from shear_lit.data.serving.segments import Segments
from shear_lit.data.serving.store import Key, SequenceStore

_log = logging.getLogger(__name__)
_BATCHES_AHEAD = 4
"""Micro-batches that each worker may have ready."""


def accumulation_of(global_batch: int, micro_batch: int, world_size: int) -> int:
    """Micro-batches that each rank contributes to one global batch.

    Raises:
        DataError: the global batch is no multiple of what the ranks read together.
    """
    together = micro_batch * world_size
    if global_batch < 1 or micro_batch < 1 or global_batch % together:
        better = max(1, round(global_batch / max(1, together))) * max(1, together)
        raise DataError(
            f"{global_batch} cannot be dealt to {world_size} processes in micro-batches of "
            f"data.micro_batch={micro_batch}: it must be a multiple of {together}. "
            f"Use data.global_batch={better}, or another micro-batch.",
            key="data.global_batch",
        )
    return global_batch // together


class _Read(Dataset[DomainBatch | dict[str, Any]]):
    """Micro-batches as the store reads them.

    Workers send arrays instead, in 16 bits where they fit, without what the main process knows. A small array goes
    through the workers' pipe as it is; each tensor would cost a file of shared memory.
    """

    def __init__(self, store: SequenceStore, *, documents_apart: bool, narrow: bool) -> None:
        self._store, self._documents_apart, self._narrow = store, documents_apart, narrow

    def __getitems__(self, keys: Sequence[Key]) -> DomainBatch | dict[str, Any]:
        batch = self._store.read(keys, documents_apart=self._documents_apart)
        if not self._narrow:
            return batch
        known = ("domain", "micro_batch")
        return {name: _narrow(part.numpy()) for name, part in batch.items() if name not in known}  # type: ignore[attr-defined]


class MixtureLoader:
    """The micro-batches of one rank over a whole run, mixed by a schedule.

    It runs in segments of ``update_every_steps`` global batches. The mixture may change only between two, and nothing
    is planned past the end of one, so no worker holds a batch of the old mixture. What has been handed out counts as
    used: the state is advanced *before* a batch is yielded.

    It has a length, without which Lightning would fetch one batch past the boundary.
    """

    def __init__(
        self,
        store: SequenceStore,
        schedule: MixtureSchedule,
        weights: Sequence[float],
        *,
        steps: int,
        update_every_steps: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        documents_apart: bool = False,
    ) -> None:
        """Take the run's length in global batches (``steps``) and this rank's part in each.

        Where documents are apart, each batch says at which position of its document a token stands.

        Raises:
            DataError: the global batch cannot be dealt to the ranks, or it is not known where documents begin.
        """
        accumulation = accumulation_of(schedule.global_batch, micro_batch, world_size)
        self._store, self._schedule, self._workers = store, schedule, workers
        self._documents_apart = documents_apart
        if documents_apart:
            store.check_documents()
        self._length = steps * accumulation
        self._segments = Segments(
            schedule,
            schedule.start(weights),
            end=steps,
            every=update_every_steps,
            micro_batch=micro_batch,
            ranks=range(rank, world_size * accumulation, world_size),
        )

    @property
    def state(self) -> ScheduleState:
        """Where the schedule stands: before the global batch that is being handed out, if one is."""
        return self._segments.state

    @property
    def position(self) -> int:
        """Sequences of the current global batch that all ranks together have been handed."""
        return self._segments.position

    @property
    def micro_batches_done(self) -> int:
        """Micro-batches of this rank that have been handed out, had it been of the run from the start."""
        segments = self._segments
        return (self.state.batch * self._schedule.global_batch + self.position) // segments.together

    @property
    def at_boundary(self) -> bool:
        """Whether the mixture may change now."""
        return self.position == 0 and self.state.batch % self._segments.every == 0

    def set_weights(self, weights: Sequence[float]) -> None:
        """Change the mixture from the next global batch on; only at a boundary."""
        assert self.at_boundary, f"global batch {self.state.batch}, position {self.position} is no boundary"
        self._segments.state = self._schedule.reweighted(self.state, weights)

    def __len__(self) -> int:
        """Micro-batches of this rank over the whole run, whatever part of it is done."""
        return self._length

    def __iter__(self) -> Iterator[DomainBatch]:
        """Yield from where the state stands to the end of the run."""
        batches: DataLoader[Any] = DataLoader(
            _Read(self._store, documents_apart=self._documents_apart, narrow=self._workers > 0),
            batch_sampler=self._segments,
            num_workers=self._workers,
            prefetch_factor=_BATCHES_AHEAD if self._workers else None,
            collate_fn=_as_read,
            persistent_workers=self._workers > 0,
            generator=torch.Generator(),  # or each segment would take a number from the global one
        )
        with ExitStack() as ending:
            if self._store.chunks.is_remote and is_first_of_node():
                prefetch = Prefetch(
                    self._store,
                    self._schedule,
                    steps=self._segments.end,
                    documents_apart=self._documents_apart,
                )
                self._segments.before_batch = ending.enter_context(prefetch).look
            while self.state.batch < self._segments.end:
                yield from self._handed_out(map(self._whole, batches))

    def _handed_out(self, read: Iterator[DomainBatch]) -> Iterator[DomainBatch]:
        """The micro-batches that were ``read``; each counts as used before it is yielded."""
        if not (self._documents_apart or self._store.masked):
            for batch in read:
                yield self._used(batch)
            return
        # As many as are left of each global batch at a time: its objective divides by what all of them predict.
        used = [
            self._store.read(keys, documents_apart=self._documents_apart)
            for keys in self._segments.handed_out()
        ]
        while ahead := list(islice(read, len(self._segments.ranks) - len(used))):
            predicted = sum(map(predicted_count, [*used, *ahead]))
            used = []
            for batch in ahead:
                yield {**self._used(batch), "predicted": predicted}

    def _used(self, batch: DomainBatch) -> DomainBatch:
        planned = self._segments.advance()
        domain = torch.tensor([domain for domain, _ in planned.keys])
        return {**batch, "domain": domain, "micro_batch": planned.micro_batch, "keys": planned.keys}

    def _whole(self, read: Any) -> DomainBatch:
        """A micro-batch as a worker sent it, in tensors."""
        if not self._workers:
            return cast(DomainBatch, read)
        return cast(DomainBatch, {name: torch.from_numpy(_widened(part)) for name, part in read.items()})

    def state_dict(self) -> dict[str, Any]:
        """The position in the run, in plain types; the same on every rank."""
        return {**self._schedule.state_dict(self.state), "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            DataError: it belongs to another order of sequences, or to the middle of a global batch of other parts.
        """
        restored = self._schedule.restored(state)
        self._segments.check_batch(state)
        if state["position"] % self._segments.together:
            raise DataError(
                f"{self._segments.micro_batch}: the checkpoint stands {state['position']} sequences "
                f"into a global batch, which processes that together take {self._segments.together} at a time cannot "
                "reach. Use the micro-batch and processes of the checkpoint, or a checkpoint taken between steps.",
                key="data.micro_batch",
            )
        self._segments.state, self._segments.position = restored, state["position"]
        if names := self._schedule.held_back(restored):
            _log.warning(
                "data.mixture.max_epochs would let %s be read again, but the checkpoint has given up on it: its weight "
                "went to the others. It stays out; to have it back, resume from a checkpoint before that.",
                ", ".join(names),
            )


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.bool_:
        return array
    return array.astype(np.uint16 if array.max() < 1 << 16 else np.uint32)


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype == np.bool_ else array.astype(np.int64)


def _as_read(batch: Any) -> Any:
    return batch  # the store reads a micro-batch at once: there is nothing to collate
