"""Which sequences each micro-batch of one rank holds, planned as far as the mixture is known."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch.utils.data import Sampler

from shear_lit.data.errors import DataError
from shear_lit.data.order.schedule import GlobalBatch, MixtureSchedule, ScheduleState
from shear_lit.data.serving.store import Key

_log = logging.getLogger(__name__)


class Planned(NamedTuple):
    """One micro-batch of this rank."""

    after: ScheduleState
    """The state after its global batch."""
    micro_batch: int
    """Its index within the global batch, over all ranks."""
    keys: list[Key]
    """Its sequences."""


class Segments(Sampler[list[Key]]):
    """Where a run stands, and the plan of one rank to the end of the segment, within which the mixture is fixed.

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
        self._ahead: deque[Planned] = deque()
        self.before_batch: Callable[[ScheduleState], None] | None = None
        """What is told the state before each global batch that is planned."""

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
            if self.before_batch is not None:
                self.before_batch(state)
            batch, state = self.schedule.next_batch(state)
            for index in self.ranks[position // self.together :]:
                planned = Planned(state, index, self._keys(batch, index))
                self._ahead.append(planned)
                yield planned.keys
            position = 0

    def handed_out(self) -> list[list[Key]]:
        """The sequences of this rank's micro-batches of the current global batch that are used already."""
        if self.position == 0:
            return []
        batch, _ = self.schedule.next_batch(self.state)
        return [self._keys(batch, index) for index in self.ranks[: self.position // self.together]]

    def advance(self) -> Planned:
        """Count the next planned micro-batch, of every rank, as used, and give this rank's."""
        planned = self._ahead.popleft()
        self.position += self.together
        if self.position == self.schedule.global_batch:
            if self.ranks.start == 0 and planned.after.exhausted != self.state.exhausted:
                self._say_exhausted(planned.after)
            self.state, self.position = planned.after, 0
        return planned

    def check_batch(self, saved: Mapping[str, Any]) -> None:
        """Say that the global batch is another than that of the saved state, which can begin only where one has ended.

        Raises:
            DataError: it stands inside of one.
        """
        here, before = self.schedule.global_batch, saved["global_batch"]
        if here == before:
            return
        if saved["position"]:
            raise DataError(
                f"{here}: the checkpoint stands {saved['position']} sequences into a global batch of {before}, which "
                f"must end first. Use {before}, or a checkpoint taken between steps.",
                key="data.global_batch",
            )
        if self.ranks.start == 0:
            _log.info(
                "data.global_batch is %d from step %d on, and was %d: what domains are owed is kept",
                here,
                saved["batch"],
                before,
            )

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
