"""Differences of two models on the same documents or questions, by paired bootstrap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000
_AT_ONCE = 2_000_000
"""Entries of the table of resamples that are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two models are apart."""

    value: float
    """The difference."""
    low: float
    """Where its 95 % interval begins; nan with fewer than two units."""
    high: float
    """Where it ends."""

    @property
    def holds_zero(self) -> bool:
        """Whether nothing tells which of the two is ahead."""
        return not (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        mark = " (0 inside)" if self.holds_zero else ""
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]{mark}"


@dataclass(frozen=True, kw_only=True)
class Units:
    """What two models were both measured on: documents of a domain, or questions of a task."""

    differences: Float64[np.ndarray, "units"]
    """By unit, the sum of one model less that of the other."""
    sizes: Float64[np.ndarray, "units"]
    """What the sums are over: tokens, bytes, or 1 for a question."""


def paired_difference(groups: Sequence[Units], *, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """The mean over groups of the difference of each, with the interval in which it lies when units are drawn anew.

    Units are drawn with all that both models made of them, within each group: what makes a document hard for both
    cancels.
    """
    numbers = np.random.default_rng(seed)
    values = [float(group.differences.sum() / group.sizes.sum()) for group in groups]
    value = sum(values) / len(values)
    if any(len(group.sizes) < 2 for group in groups):
        return Difference(value=value, low=math.nan, high=math.nan)
    drawn = sum(_drawn(group, numbers, resamples) for group in groups) / len(groups)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(value=value, low=float(low), high=float(high))


def _drawn(group: Units, numbers: np.random.Generator, resamples: int) -> Array:
    """The group's difference in every resample."""
    count, found = len(group.sizes), []
    step = max(1, _AT_ONCE // count)
    for start in range(0, resamples, step):
        chosen = numbers.integers(0, count, (min(step, resamples - start), count))
        found.append(group.differences[chosen].sum(1) / group.sizes[chosen].sum(1))
    return np.concatenate(found)
