"""Where a number lies in a picture."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_SMALLEST = 1e-280
"""Differences below it are none: numbers get coarse there."""


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high`` that an axis shows."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """How far ``value`` is on the way from low to high."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Round numbers inside, at most ``most``."""
        raw = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(raw))
        gap = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / gap - 1e-9), math.floor(self.high / gap + 1e-9)
        return [number * gap for number in range(first, last + 1)]


def range_of(values: Iterable[float], *, at_zero: bool = False, margin: float = 0.06) -> Range:
    """A range that shows all of ``values``, from 0 on if ``at_zero``, with some room at its ends."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    low = min(low, 0.0) if at_zero else low
    if high - low < _SMALLEST:
        high = low
    room = (high - low) * margin or max(abs(high), 1.0) * margin
    return Range(low if at_zero and low == 0 else low - room, high + room)


def steps_of(steps: Iterable[int]) -> Range:
    """The range of steps from 0 on, at least one."""
    return Range(0, max([1, *steps]))
