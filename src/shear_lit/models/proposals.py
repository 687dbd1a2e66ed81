"""Shapes of a given size, the best balanced first.

Balance: hidden units, query heads and feed-forward units keep the same fraction f of the source's, and layers keep
the square root of f: the published shapes keep more of the depth (.75 at f = .5 and at f = .25, 1 at f = .625).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from transformers import PretrainedConfig

from shear_lit.models.registry import family_of, tensor_sizes
from shear_lit.theory.shape import Axis, ModelShape, ShapeError

_TOLERANCE = 0.01
"""How far a proposal may be from the size asked for."""
_MULTIPLES = (128, 64, 32, 16, 8)
_UNEVEN = 0.02
"""The price of each halving of the largest of ``_MULTIPLES`` that divides a size, in the unit of the imbalance."""
_WIDEST = 2.0
"""Heads or hidden units that keep this many times less or more than the others are not looked at."""


class Measure(StrEnum):
    """What a size is counted in."""

    PARAMETERS = "parameters"
    FLOPS = "multiplications per token"
    """Of all matrices that a token meets, the head's among them; not those between tokens in attention."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A shape that fits a size."""

    shape: ModelShape
    """The shape."""
    size: float
    """Its size."""
    measure: Measure
    """What the size is counted in."""
    cost: float
    """How far it is from balance; 0 is balanced, in sizes that are multiples of 128."""

    def __str__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.shape.to_dict().items())
        return f"{sizes}: {self.size:,.0f} {self.measure} (imbalance {self.cost:.3f})"


class SizeModel:
    """The size of a source at any shape, from its family's table; blocks of one model are of one size."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.family = family_of(config)
        sizes = tensor_sizes(config)
        self._outside = {name: size for name, size in sizes.items() if self.family.pattern(name)[1] is None}
        self._block = {name: size for name, size in sizes.items() if self.family.pattern(name)[1] == 0}
        self._looked_up = {f"{self.family.embedding}.weight"}
        if config.tie_word_embeddings:  # the one matrix is also the head, which is multiplied with
            self._looked_up = set()

    def of(self, shape: ModelShape, measure: Measure) -> float:
        """The size of the source cut to ``shape``."""
        blocks = shape.layers * self._sum(self._block, shape, measure)
        return blocks + self._sum(self._outside, shape, measure)

    def _sum(self, sizes: dict[str, tuple[int, ...]], shape: ModelShape, measure: Measure) -> int:
        carved = self.family.carved_sizes(sizes, shape)
        if measure is Measure.PARAMETERS:
            return sum(math.prod(size) for size in carved.values())
        counted = (size for name, size in carved.items() if len(size) > 1 and name not in self._looked_up)
        return sum(math.prod(size) for size in counted)


def propose(
    sizes: SizeModel,
    asked: float,
    *,
    measure: Measure,
    axes: tuple[Axis, ...],
    key: str,
    given: float,
    count: int,
) -> list[Proposal]:
    """Shapes within 1 % of the ``asked`` size that shrink nothing but ``axes``, the best balanced first.

    ``given`` is what the user said under ``key``, for messages.

    Raises:
        ShapeError: there is none; the error names the smallest and largest size, and the nearest shapes.
    """
    source = sizes.family.shape
    close = list(_candidates(sizes, asked, measure, axes, within=_TOLERANCE))
    if close and asked < sizes.of(source, measure):
        return sorted(close, key=lambda proposal: proposal.cost)[:count]
    found = _candidates(sizes, asked, measure, axes, within=math.inf)
    smallest = ModelShape(
        **{
            axis.value: 1 if axis in axes else getattr(source, axis.value)
            for axis in Axis
            if axis is not Axis.QUERY_HEADS
        },
        query_heads=(1 if Axis.KV_HEADS in axes else source.kv_heads)
        * (1 if Axis.QUERY_HEADS in axes else source.queries_per_group),
    )
    nearest = sorted(found, key=lambda proposal: abs(proposal.size / asked - 1))[:3]
    listed = "; ".join(str(proposal) for proposal in nearest) or "none in round sizes"
    raise ShapeError(
        f"{given:g} cannot be reached within {_TOLERANCE:.0%} by shrinking {', '.join(axis.value for axis in axes)}: "
        f"from {sizes.of(smallest, measure):,.0f} (one unit of everything) to {sizes.of(source, measure):,.0f} "
        f"{measure} (the source) can be, in steps of its units. The nearest balanced shapes: {listed}. "
        f"Ask for one of those sizes, or allow more axes.",
        key=key,
    )


def _candidates(
    sizes: SizeModel, asked: float, measure: Measure, axes: tuple[Axis, ...], *, within: float
) -> Iterator[Proposal]:
    """For every depth, width and number of heads that the family takes, the feed-forward size that comes closest.

    Those that are further from ``asked`` than ``within``, as a fraction of it, are left out.
    """
    source = sizes.family.shape
    groups = range(1, source.kv_heads + 1) if Axis.KV_HEADS in axes else (source.kv_heads,)
    per_group = range(1, source.queries_per_group + 1)
    queries_of = per_group if Axis.QUERY_HEADS in axes else (source.queries_per_group,)
    depths = range(1, source.layers + 1) if Axis.LAYERS in axes else (source.layers,)
    for hidden, kv_heads, queries in product(
        _choices(source.hidden, may_shrink=Axis.HIDDEN in axes), groups, queries_of
    ):
        share = hidden / source.hidden, kv_heads * queries / source.query_heads
        if Axis.HIDDEN in axes and Axis.KV_HEADS in axes and max(share) > _WIDEST * min(share):
            continue
        width = {"hidden": hidden, "query_heads": kv_heads * queries, "kv_heads": kv_heads}
        line = _Line(sizes, width, measure)
        for layers in depths:
            intermediate = source.intermediate
            if Axis.INTERMEDIATE in axes:
                wanted = line.intermediate(layers, asked)
                intermediate = min(
                    _choices(source.intermediate, may_shrink=True), key=lambda size: abs(size - wanted)
                )
            size = line.size(layers, intermediate)
            if abs(size / asked - 1) > within:
                continue
            shape = ModelShape(**width, layers=layers, intermediate=intermediate)
            if _takes(sizes, shape):
                cost = imbalance(source, shape)
                yield Proposal(shape=shape, size=size, measure=measure, cost=cost)


class _Line:
    """The size of models of one width: outside + layers * (constant + slope * feed-forward units)."""

    def __init__(self, sizes: SizeModel, width: dict[str, int], measure: Measure) -> None:
        one, two, wide = (
            sizes.of(ModelShape(**width, layers=layers, intermediate=intermediate), measure)
            for layers, intermediate in ((1, 1), (2, 1), (1, 2))
        )
        self.slope = wide - one
        self.constant = two - one - self.slope
        self.outside = one - self.constant - self.slope

    def size(self, layers: int, intermediate: int) -> float:
        return self.outside + layers * (self.constant + self.slope * intermediate)

    def intermediate(self, layers: int, size: float) -> float:
        return ((size - self.outside) / layers - self.constant) / self.slope


def _takes(sizes: SizeModel, shape: ModelShape) -> bool:
    try:
        sizes.family.check_target(shape)
    except ShapeError:
        return False
    return True


def imbalance(source: ModelShape, shape: ModelShape) -> float:
    """How far ``shape`` is from keeping the same fraction of every width and its square root of the depth.

    The root mean square of the logarithms' deviations, plus a price for sizes that are no multiples of 128.
    """
    widths = [
        math.log(shape.hidden / source.hidden),
        math.log(shape.query_heads / source.query_heads),
        math.log(shape.intermediate / source.intermediate),
    ]
    depth = 2 * math.log(shape.layers / source.layers)
    logs = [*widths, depth]
    mean = sum(logs) / len(logs)
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / len(logs))
    return spread + _UNEVEN * sum(_halvings(size) for size in (shape.hidden, shape.intermediate))


def _halvings(size: int) -> int:
    return next((index for index, multiple in enumerate(_MULTIPLES) if size % multiple == 0), len(_MULTIPLES))


def _choices(units: int, *, may_shrink: bool) -> list[int]:
    """The sizes to look at: multiples of the largest of 64, 32, ... of which there are at least 16."""
    if not may_shrink:
        return [units]
    step = next((multiple for multiple in (128, 64, 32, 16, 8) if units // multiple >= 16), 1)
    return [*range(step, units, step), units]
