"""Ridge least squares from second moments, with a part of the text held out to choose how strongly it is held back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from shear_lit.ranking.importance import Reduce

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6)
"""The strengths that are tried: fractions of the mean diagonal of the inputs' moments."""

_LEAST_SQUARE = 1e-6
"""Of an input, as a part of the mean: one that is always 0 is held where it is."""
PANEL = 256
"""Rows of a symmetric product that are computed at once; narrower ones are not faster."""


class Moments:
    """Sums over tokens of the outer products of inputs A and of targets Y, apart for text to fit and text held out.

    They take the place of the activations, which are never kept. Sums of several processes add up.
    """

    def __init__(self, inputs: int, targets: int, *, among_targets: bool, device: torch.device) -> None:
        """``among_targets``: keep all products of two targets, not only their squares."""
        kind = {"dtype": torch.float64, "device": device}
        self.gram = torch.zeros(2, inputs, inputs, **kind)  # type: ignore[call-overload]
        self.cross = torch.zeros(2, inputs, targets, **kind)  # type: ignore[call-overload]
        size = (targets, targets) if among_targets else (targets,)
        self.target = torch.zeros(size, **kind)  # type: ignore[call-overload]
        """Of the text held out alone."""

    def add(
        self, inputs: Float[Tensor, "tokens inputs"], targets: Float[Tensor, "tokens targets"], fitted: int
    ) -> None:
        """Count some tokens, of which the first ``fitted`` are not held out; ``summed`` makes the sums whole."""
        for part, (a, y) in enumerate(zip(*(apart(rows, fitted) for rows in (inputs, targets)), strict=True)):
            if not len(a):
                continue
            # What is symmetric is computed once.
            for first in range(0, a.shape[1], PANEL):
                product = a[:, first : first + PANEL].mT @ a[:, first:]
                self.gram[part, first : first + PANEL, first:] += product.to(self.gram.device)
            self.cross[part] += (a.mT @ y).to(self.gram.device)
            if part:
                squares = (y.mT @ y) if self.target.ndim == 2 else y.square().sum(0)
                self.target += squares.to(self.gram.device)

    def summed(self, over: Reduce | None) -> "Moments":
        """Make the sums whole, in place, once all tokens are counted; over processes as well."""
        for part in self.gram:  # in place: no second copy of what may be a gigabyte
            part.triu_().add_(part.triu(1).mT)
        if over is not None:
            self.gram, self.cross, self.target = (
                over(total) for total in (self.gram, self.cross, self.target)
            )
        return self

    def through(self, maps: Float[Tensor, "outputs targets"]) -> "Moments":
        """The moments whose targets are ``maps`` of these targets; ``among_targets`` must have been kept."""
        found = object.__new__(Moments)
        wide = maps.to(self.gram)
        found.gram, found.cross = self.gram, self.cross @ wide.mT
        found.target = ((wide @ self.target) * wide).sum(-1)
        return found

    def without_ones(self) -> "Moments":
        """The moments without the last input and the last target, which stand for biases."""
        found = object.__new__(Moments)
        found.gram, found.cross = self.gram[:, :-1, :-1], self.cross[:, :-1, :-1]
        found.target = self.target[:-1, :-1]
        return found

    @property
    def squares(self) -> Float64[Tensor, "targets"]:
        """The sums of the squares of each target, over the text held out."""
        return self.target.diagonal() if self.target.ndim == 2 else self.target

    def error(self, weight: Float[Tensor, "outputs inputs"]) -> float:
        """What ``weight`` leaves of the squares of its targets, over the text held out.

        It is the mean over targets of the fraction of each: a few channels of the residual stream are larger than all
        others together, and would decide alone.
        """
        wide, squares = weight.to(self.gram), self.squares
        left = ((wide @ self.gram[1] - 2 * self.cross[1].mT) * wide).sum(-1) + squares
        return float((left / squares.clamp(min=1e-300))[squares > 0].mean()) if (squares > 0).any() else 0.0


def apart(rows: Float[Tensor, "tokens _"], fitted: int) -> tuple[Tensor, Tensor]:
    """The first ``fitted`` rows, and those that are held out."""
    return rows[:fitted], rows[fitted:]


class Refitted(NamedTuple):
    """What became of one weight of the carved model."""

    tensor: str
    """Its name."""
    share: float
    """How strongly it was held back."""
    before: float
    """What it left of its targets' squares on text held out: the mean over targets of the fraction of each."""
    after: float
    """What a refit leaves of them."""
    refitted: bool
    """Whether it was better than before: if not, the weight is what it was."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was found for one weight."""

    weight: Tensor | None
    """The refitted one, in float64; None where it is no better than before on text held out."""
    share: float
    """How strongly it was held back."""
    before: float
    """``Moments.error`` of the weight from before, on text held out."""
    after: float
    """That of a refit on the other text."""

    def of(self, weight: Tensor | None) -> "Fit":
        """The same of another weight, which was found through this one."""
        return replace(self, weight=weight)

    def noted(self, tensor: str) -> Refitted:
        """What is told of it."""
        return Refitted(tensor, self.share, self.before, self.after, self.weight is not None)


def refit(moments: Moments, weight: Float[Tensor, "outputs inputs"], shares: Sequence[float]) -> Fit:
    """argmin |A W^T - Y|^2 + sum_j p_j |W_j - weight_j|^2, with the best share on text held out.

    The pull p_j on the column of an input is in the ratio of that input's size, the root of its mean square, and
    ``share`` times mean(diag A^T A) on average: large inputs need less of a weight's change, small ones more of it.
    """
    start = weight.to(moments.gram)
    return judged(
        start=start,
        fitted=lambda share: ridge(moments.gram[0], moments.cross[0], start, share),
        final=lambda share: ridge(moments.gram.sum(0), moments.cross.sum(0), start, share),
        error=moments.error,
        shares=shares,
    )


def judged(
    *,
    start: Tensor,
    fitted: Callable[[float], Tensor | None],
    final: Callable[[float], Tensor | None],
    error: Callable[[Tensor], float],
    shares: Sequence[float],
) -> Fit:
    """The refit whose share is best on text held out, of all text; none where what was there is no worse.

    ``fitted`` knows the other text alone, ``final`` all of it; ``error`` is that on text held out. From the middle of
    ``shares``, which rise, the next one is tried for as long as it is better.
    """
    before, tried = error(start), downhill(partial(_left, fitted, error), shares)
    share = min(tried, key=tried.__getitem__)
    weight = final(share) if tried[share] < before else None
    return Fit(weight=weight, share=share, before=before, after=before if weight is None else tried[share])


def _left(fitted: Callable[[float], Tensor | None], error: Callable[[Tensor], float], share: float) -> float:
    found = fitted(share)
    return float("inf") if found is None else error(found)


def downhill(cost: Callable[[float], float], values: Sequence[float]) -> dict[float, float]:
    """What ``values`` cost from the middle on down to the lowest, and one beyond it on either side."""
    middle = (len(values) - 1) // 2
    found = {values[middle]: cost(values[middle])}
    for way in (values[middle + 1 :], values[:middle][::-1]):
        least = found[values[middle]]
        for value in way:
            found[value] = cost(value)
            if found[value] >= least:
                break
            least = found[value]
        if least < found[values[middle]]:
            break
    return found


def ridge(
    gram: Float64[Tensor, "inputs inputs"],
    cross: Float64[Tensor, "inputs outputs"],
    start: Float64[Tensor, "outputs inputs"],
    share: float,
) -> Float64[Tensor, "outputs inputs"] | None:
    """The minimum of ``refit``; None where there is nothing to fit to."""
    squares = gram.diagonal()
    mean = squares.mean()
    if not mean > 0:  # dead inputs: nothing can be fitted to them
        return None
    sizes = (squares / mean).clamp(min=_LEAST_SQUARE).sqrt()
    pull, held = share * mean * sizes / sizes.mean(), gram.clone()
    held.diagonal().add_(pull)
    factor, failed = torch.linalg.cholesky_ex(held)
    return None if failed else torch.cholesky_solve(cross + pull[:, None] * start.mT, factor).mT


def with_bias(linear: nn.Module) -> Tensor:
    """The weight of a layer with its bias as a last column."""
    return torch.cat([linear.get_parameter("weight"), linear.get_parameter("bias")[:, None]], dim=1).detach()


@torch.no_grad()
def put(linear: nn.Module, weight: Tensor, *, biased: bool) -> None:
    """Give a layer its weight; ``biased``: the last column is its bias."""
    if biased:
        linear.get_parameter("bias").copy_(weight[:, -1])
        weight = weight[:, :-1]
    linear.get_parameter("weight").copy_(weight)
