"""Importance of units: what every criterion gives, the text it is measured on, and sums that two halves of it share."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shear_lit.theory.shape import Axis

Importance = dict[Axis, Float[Tensor, "..."]]
"""Importance by axis, each of ``ModelShape.gate_shape(axis)``; larger is more important. Only the order counts."""

Reduce = Callable[[Tensor], Tensor]
"""Makes a sum over this process's text one over the text of all processes."""


class Passage(NamedTuple):
    """One sequence of the text that importance is measured on."""

    inputs: Mapping[str, Tensor]
    """Inputs and labels of a stock model, each [1, tokens]."""
    number: int
    """Its number in the text, the same however many processes share it."""
    counted: Bool[Tensor, "1 tokens"] | None = None
    """Which of its tokens count: others are padding, or not learned; none: all."""
    counts: bool = True
    """Whether it counts at all. Processes that wait for one another see as many passages each; some only fill up."""


def ranks(values: Float[Tensor, "*rows units"]) -> Int[Tensor, "*rows units"]:
    """0 for the largest of each row; of equal ones, the first comes first."""
    return values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)


class Sums:
    """Sums over passages by name, in float64 on the CPU, kept apart for the two halves of the text.

    Passages enter one at a time, so that no size of a batch and no number of processes can change what comes out.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._halves = tuple(
            {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
            for _ in range(2)
        )
        self._half = 0

    def begin(self, passage: Passage) -> None:
        """Let what follows be of ``passage``."""
        self._half = passage.number % 2

    def add(self, name: str, value: Tensor, at: int | tuple[int, ...] | None = None) -> None:
        """Add ``value`` to the sum ``name``, or to a part of it."""
        total = self._halves[self._half][name]
        (total if at is None else total[at]).add_(value.detach().cpu().double())

    def reduce(self, over: Reduce) -> None:
        """Add up over processes."""
        for half in self._halves:
            for name in half:
                half[name] = over(half[name])

    def each(self) -> Iterator[dict[str, Tensor]]:
        """The sums over all of the text, then over either half."""
        first, second = self._halves
        yield {name: first[name] + second[name] for name in first}
        yield from (first, second)
