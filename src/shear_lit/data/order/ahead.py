"""Which chunks an order comes to, soonest first, so that they can be at hand before they are read."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from shear_lit.data.order.permutation import DomainOrder
from shear_lit.data.order.schedule import UNIT, MixtureSchedule, ScheduleState

WINDOWS = 2
"""Of each domain: the present window, and the one after it."""

Chunk = tuple[int, int]
"""The index of a domain, and the number of a chunk of it."""


class ChunksAhead:
    """The chunks of the present window of each domain and of the next, by when they are needed."""

    def __init__(
        self, chunk_sizes: Mapping[str, Sequence[int]], schedule: MixtureSchedule, *, steps: int
    ) -> None:
        """Take the sequences of each chunk, by domain, the schedule, and the run's length in global batches."""
        self._schedule, self._steps = schedule, steps
        self._ends = [np.cumsum(np.asarray(sizes, dtype=np.int64)) for sizes in chunk_sizes.values()]
        self._orders = [DomainOrder(name, sizes, schedule.seed) for name, sizes in chunk_sizes.items()]

    def windows(self, state: ScheduleState) -> tuple[int, ...]:
        """The draw at which the present window of each domain ends; -1 where nothing is drawn.

        While they stay the same, so do the chunks, but for those that another mixture would reach before the run's end.
        """
        domains = enumerate(zip(self._orders, state.drawn, strict=True))
        return tuple(
            drawn + len(order.rest_of_window(drawn)) if self._more(state, domain) > 0 else -1
            for domain, (order, drawn) in domains
        )

    def chunks(self, state: ScheduleState) -> list[Chunk]:
        """The chunks that are read from ``state`` on, each once, those that are needed first before the others.

        A sequence that a domain of weight w draws as its n-th from now comes in about n / w sequences of the mixture.
        """
        needs = dict[Chunk, float]()
        for domain, (weight, drawn) in enumerate(zip(state.weights, state.drawn, strict=True)):
            more, ahead = self._more(state, domain), 0
            for _ in range(WINDOWS):
                if ahead >= more:
                    break
                rest = self._orders[domain].rest_of_window(drawn + ahead)[: more - ahead]
                chunks = np.searchsorted(self._ends[domain], rest, side="right")
                for chunk, first in zip(*np.unique(chunks, return_index=True), strict=True):
                    needs.setdefault((domain, int(chunk)), (ahead + int(first)) / weight)
                ahead += len(rest)
        return sorted(needs, key=lambda chunk: (needs[chunk], chunk))

    def _more(self, state: ScheduleState, domain: int) -> int:
        """Sequences that a domain will supply up to the run's end, should the mixture stay as it is."""
        if not state.weights[domain] > 0 or state.exhausted[domain]:
            return 0
        batches = self._steps - state.batch
        owed = state.weights[domain] * batches * self._schedule.global_batch + state.carry[domain] / UNIT
        return min(math.ceil(owed), math.floor(min(self._schedule.left(state)[domain], 2**62)))
