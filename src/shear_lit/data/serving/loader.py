"""What Lightning sees: micro-batches in an order that no worker, rank or resume changes."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from shear_lit.data.errors import DataError
from shear_lit.data.order.schedule import GlobalBatch, MixtureSchedule, ScheduleState
from shear_lit.data.serving.boundaries import DocumentBoundary, document_positions
from shear_lit.data.serving.store import PADDING_DOMAIN, DomainBatch, Key, SequenceStore

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


class _Planned(NamedTuple):
    """One micro-batch of this rank."""

    after: ScheduleState
    """The state after its global batch."""
    micro_batch: int
    """Its index within the global batch, over all ranks."""
    keys: list[Key]
    """Its sequences."""


class _Segments(Sampler[list[Key]]):
    """Which sequences each micro-batch of one rank holds: where the run stands, and its plan to the segment's end.

    It runs in the main process, ahead of the workers.
    """

    def __init__(
        self,
        schedule: MixtureSchedule,
        start: ScheduleState,
        *,
        end: int,
        every: int,
        micro_batch: int,
        ranks: range,
    ) -> None:
        """Deal each global batch out in micro-batches; those that ``ranks`` counts off are this rank's."""
        self.schedule, self.state, self.position = schedule, start, 0
        self.end, self.every, self.micro_batch, self.ranks = end, every, micro_batch, ranks
        self._ahead: deque[_Planned] = deque()

    @property
    def together(self) -> int:
        """Sequences that all ranks together take at a time."""
        return self.micro_batch * self.ranks.step

    def __iter__(self) -> Iterator[list[Key]]:
        """Plan from the present state to the segment's end, and no further."""
        self._ahead.clear()
        state, position = self.state, self.position
        end = min(self.end, (state.batch // self.every + 1) * self.every)
        while state.batch < end:
            batch, state = self.schedule.next_batch(state)
            for index in self.ranks[position // self.together :]:
                planned = _Planned(state, index, self._keys(batch, index))
                self._ahead.append(planned)
                yield planned.keys
            position = 0

    def advance(self) -> _Planned:
        """Count the next planned micro-batch, of every rank, as used, and give this rank's."""
        planned = self._ahead.popleft()
        self.position += self.together
        if self.position == self.schedule.global_batch:
            if self.ranks.start == 0 and planned.after.exhausted != self.state.exhausted:
                self._say_exhausted(planned.after)
            self.state, self.position = planned.after, 0
        return planned

    def _say_exhausted(self, after: ScheduleState) -> None:
        told = zip(self.schedule.domains, self.state.exhausted, after.exhausted, strict=True)
        epochs = self.schedule.epochs(self.state)
        gone = [f"{name} (read {epochs[name]:.2f} times)" for name, before, now in told if now and not before]
        weights = zip(self.schedule.domains, after.weights, strict=True)
        _log.warning(
            "data.mixture.max_epochs: no more is drawn from %s, from step %d on; the mixture is now %s",
            ", ".join(gone),
            self.state.batch,
            ", ".join(f"{name} {weight:.4f}" for name, weight in weights),
        )

    def _keys(self, batch: GlobalBatch, index: int) -> list[Key]:
        part = slice(index * self.micro_batch, (index + 1) * self.micro_batch)
        return list(zip(batch.domain[part].tolist(), batch.sequence[part].tolist(), strict=True))


class _Narrow(Dataset[NDArray[np.unsignedinteger]]):
    """What workers send: the tokens alone, in 16 bits where they fit. The main process knows the rest.

    A small array goes through the workers' pipe as it is; each tensor would cost a file of shared memory.
    """

    def __init__(self, store: SequenceStore) -> None:
        self._store = store

    def __getitems__(self, keys: Sequence[Key]) -> NDArray[np.unsignedinteger]:
        tokens = self._store.__getitems__(keys)["tokens"].numpy()
        return tokens.astype(np.uint16 if tokens.max() < 1 << 16 else np.uint32)


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
        boundary: DocumentBoundary | None = None,
    ) -> None:
        """Take the run's length in global batches (``steps``) and this rank's part in each.

        With a ``boundary``, each batch says at which position of its document a token stands.

        Raises:
            DataError: the global batch cannot be dealt to the ranks.
        """
        accumulation = accumulation_of(schedule.global_batch, micro_batch, world_size)
        self._store, self._schedule, self._workers = store, schedule, workers
        self._boundary = boundary
        self._length = steps * accumulation
        self._segments = _Segments(
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
            _Narrow(self._store) if self._workers else self._store,
            batch_sampler=self._segments,
            num_workers=self._workers,
            prefetch_factor=_BATCHES_AHEAD if self._workers else None,
            collate_fn=_as_read,
            persistent_workers=self._workers > 0,
            generator=torch.Generator(),  # or each segment would take a number from the global one
        )
        while self.state.batch < self._segments.end:
            for read in batches:
                yield self._handed_out(read)

    def _handed_out(self, read: DomainBatch | NDArray[np.unsignedinteger]) -> DomainBatch:
        """The micro-batch whose tokens were ``read``; it counts as used from here on."""
        planned = self._segments.advance()
        if isinstance(read, np.ndarray):
            tokens = torch.from_numpy(read.astype(np.int64))
            domain = torch.tensor([domain for domain, _ in planned.keys])
        else:
            tokens, domain = read["tokens"], read["domain"]
        return _batch(tokens, domain, planned.micro_batch, self._boundary)

    def state_dict(self) -> dict[str, Any]:
        """The position in the run, in plain types; the same on every rank."""
        return {**self._schedule.state_dict(self.state), "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            DataError: it belongs to another order of sequences, or to the middle of a global batch of other parts.
        """
        restored = self._schedule.restored(state)
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


class ValidationLoader:
    """The first sequences of each domain, in a fixed order, dealt to ranks that all do the same number of batches.

    Batches that would be short are filled up with a repeated sequence of domain ``PADDING_DOMAIN``.
    """

    def __init__(
        self,
        store: SequenceStore,
        *,
        sequences: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        boundary: DocumentBoundary | None = None,
    ) -> None:
        """Take at most ``sequences`` of each domain; all of it if a domain has fewer, none if it has none.

        With a ``boundary``, each batch says at which position of its document a token stands.
        """
        if sequences < 1 or micro_batch < 1:
            raise DataError(
                f"{sequences}, data.validation_micro_batch={micro_batch}: both must be at least 1.",
                key="data.validation_sequences",
            )
        self._store, self._micro, self._rank, self._world = store, micro_batch, rank, world_size
        self._boundary = boundary
        self._keys: list[Key] = [
            (domain, sequence)
            for domain in range(len(store.domains))
            for sequence in range(min(sequences, store.sequences(domain)))
        ]
        if not self._keys:
            raise DataError(
                f"{store.directory!r}: no domain has a sequence in this split: there is nothing to measure losses on. "
                "Prepare more text.",
                key="data.directory",
            )
        domain, sequence = self._keys[-1]
        missing = -len(self._keys) % (micro_batch * world_size)
        self._keys += [(PADDING_DOMAIN - domain, sequence)] * missing

    def __len__(self) -> int:
        """Batches of each rank."""
        return len(self._keys) // (self._micro * self._world)

    def __iter__(self) -> Iterator[DomainBatch]:
        """Yield this rank's batches."""
        for index in range(self._rank, len(self) * self._world, self._world):
            read = self._store.__getitems__(self._keys[index * self._micro : (index + 1) * self._micro])
            yield _batch(read["tokens"], read["domain"], index, self._boundary)


def _batch(
    tokens: torch.Tensor, domain: torch.Tensor, index: int, boundary: DocumentBoundary | None
) -> DomainBatch:
    batch: DomainBatch = {"tokens": tokens, "domain": domain, "micro_batch": index}
    if boundary is not None:
        batch["positions"] = document_positions(tokens, boundary)
    return batch


def _as_read(batch: Any) -> Any:
    return batch  # the store reads a micro-batch at once: there is nothing to collate
