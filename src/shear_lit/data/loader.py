"""What Lightning sees: micro-batches in an order that no worker, rank or resume changes."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from shear_lit.data.errors import DataError
from shear_lit.data.schedule import GlobalBatch, MixtureSchedule, ScheduleState
from shear_lit.data.store import PADDING_DOMAIN, DomainBatch, Key, SequenceStore


def accumulation_of(global_batch: int, micro_batch: int, world_size: int) -> int:
    """Micro-batches that each rank contributes to one global batch.

    Raises:
        DataError: the global batch is no multiple of what the ranks read together.
    """
    together = micro_batch * world_size
    if global_batch < 1 or micro_batch < 1 or global_batch % together:
        better = max(1, round(global_batch / max(1, together))) * max(1, together)
        raise DataError(
            f"data.global_batch={global_batch} cannot be dealt to {world_size} processes in micro-batches of "
            f"data.micro_batch={micro_batch}: it must be a multiple of {together}. "
            f"Use data.global_batch={better}, or another micro-batch."
        )
    return global_batch // together


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
    ) -> None:
        """Take the run's length in global batches (``steps``) and this rank's part in each.

        Raises:
            DataError: the global batch cannot be dealt to the ranks.
        """
        self._schedule, self._steps, self._every = schedule, steps, update_every_steps
        self._micro, self._rank, self._world = micro_batch, rank, world_size
        self._accumulation = accumulation_of(schedule.global_batch, micro_batch, world_size)
        self._state = schedule.start(weights)
        self._position = 0
        self._ahead: deque[tuple[ScheduleState, int]] = deque()
        self._batches: DataLoader[DomainBatch] = DataLoader(
            store,
            batch_sampler=_Segment(self),
            num_workers=workers,
            collate_fn=_as_read,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # or each segment would take a number from the global one
        )

    @property
    def state(self) -> ScheduleState:
        """Where the schedule stands: before the global batch that is being handed out, if one is."""
        return self._state

    @property
    def position(self) -> int:
        """Sequences of the current global batch that all ranks together have been handed."""
        return self._position

    @property
    def at_boundary(self) -> bool:
        """Whether the mixture may change now."""
        return self._position == 0 and self._state.batch % self._every == 0

    def set_weights(self, weights: Sequence[float]) -> None:
        """Change the mixture from the next global batch on; only at a boundary."""
        assert self.at_boundary, f"global batch {self._state.batch}, position {self._position} is no boundary"
        self._state = self._schedule.reweighted(self._state, weights)

    def __len__(self) -> int:
        """Micro-batches of this rank over the whole run, whatever part of it is done."""
        return self._steps * self._accumulation

    def __iter__(self) -> Iterator[DomainBatch]:
        """Yield from where the state stands to the end of the run."""
        while self._state.batch < self._steps:
            for batch in self._batches:
                after, index = self._ahead.popleft()
                self._advance(after)
                batch["micro_batch"] = index
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position in the run, in plain types; the same on every rank."""
        return {**self._schedule.state_dict(self._state), "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            DataError: it belongs to another order of sequences, or to the middle of a global batch of other parts.
        """
        restored = self._schedule.restored(state)
        if state["position"] % (self._micro * self._world):
            raise DataError(
                f"data.micro_batch={self._micro}: the checkpoint stands {state['position']} sequences into a global "
                f"batch, which {self._world} processes cannot reach with this micro-batch. "
                "Use the micro-batch and the number of processes of the checkpoint, or a checkpoint between two steps."
            )
        self._state, self._position = restored, state["position"]

    def _advance(self, after: ScheduleState) -> None:
        self._position += self._micro * self._world
        if self._position == self._schedule.global_batch:
            self._state, self._position = after, 0

    def _segment(self) -> Iterator[list[Key]]:
        """Plan from the present state to the segment's end; runs in the main process, ahead of the workers."""
        self._ahead.clear()
        state, position = self._state, self._position
        end = min(self._steps, (state.batch // self._every + 1) * self._every)
        while state.batch < end:
            batch, state = self._schedule.next_batch(state)
            first = position // self._micro + self._rank
            for index in range(first, self._world * self._accumulation, self._world):
                self._ahead.append((state, index))
                yield self._keys(batch, index)
            position = 0

    def _keys(self, batch: GlobalBatch, index: int) -> list[Key]:
        part = slice(index * self._micro, (index + 1) * self._micro)
        return list(zip(batch.domain[part].tolist(), batch.sequence[part].tolist(), strict=True))


class _Segment(Sampler[list[Key]]):
    """The keys of one segment's micro-batches, as torch's loader wants them."""

    def __init__(self, loader: MixtureLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[Key]]:
        return self._loader._segment()


class ValidationLoader:
    """The first sequences of each domain, in a fixed order, dealt to ranks that all do the same number of batches.

    Batches that would be short are filled up with a repeated sequence of domain ``PADDING_DOMAIN``.
    """

    def __init__(
        self, store: SequenceStore, *, sequences: int, micro_batch: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Take at most ``sequences`` of each domain; all of it if a domain has fewer."""
        if sequences < 1 or micro_batch < 1:
            raise DataError(
                f"data.validation_sequences={sequences}, data.validation_micro_batch={micro_batch}: "
                "both must be at least 1."
            )
        self._store, self._micro, self._rank, self._world = store, micro_batch, rank, world_size
        self._keys: list[Key] = [
            (domain, sequence)
            for domain in range(len(store.domains))
            for sequence in range(min(sequences, store.sequences(domain)))
        ]
        domain, sequence = self._keys[-1]
        missing = -len(self._keys) % (micro_batch * world_size)
        self._keys += [(PADDING_DOMAIN - domain, sequence)] * missing

    def __len__(self) -> int:
        """Batches of each rank."""
        return len(self._keys) // (self._micro * self._world)

    def __iter__(self) -> Iterator[DomainBatch]:
        """Yield this rank's batches."""
        for index in range(self._rank, len(self) * self._world, self._world):
            batch = self._store.__getitems__(self._keys[index * self._micro : (index + 1) * self._micro])
            batch["micro_batch"] = index
            yield batch


def _as_read(batch: Any) -> Any:
    return batch  # the store reads a micro-batch at once: there is nothing to collate
