"""Mixtures that follow training losses alone: a bandit (arXiv:2312.02406), and laws of losses (arXiv:2410.11820).

Neither needs references or validation (deviation D27). Both keep a few numbers between two updates, plain ones, for
checkpoints. An update may come after any number of optimizer steps; after every single one, it is that of the sources.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an update is told of the steps since the one before it, by domain."""

    losses: Float64[Tensor, "domains"]
    """Mean training loss in nats per token; nan where no token of the domain was trained on."""
    shares: Float64[Tensor, "domains"]
    """Fraction of the sequences that were drawn."""
    step: int
    """Optimizer steps since the start of the run."""
    sequences: int
    """Sequences of all domains that were drawn in them."""


# A bandit

REWARD_KEPT = 0.9
"""How much of its reward a domain keeps at an update."""


@dataclass(frozen=True, kw_only=True)
class OdmState:
    """What the bandit knows."""

    rewards: Numbers
    """Moving average, by domain, of loss over probability."""
    updates: int = 0


def odm_update(
    weights: Float64[Tensor, "domains"], state: OdmState, seen: Seen
) -> tuple[Float64[Tensor, "domains"], OdmState]:
    """Draw more of the domains whose losses are high (Exp3; arXiv:2312.02406, algorithm 1).

    With K domains, t updates and e_t = min(1/K, sqrt(ln K / (K t))): R <- 0.9 R + 0.1 loss/w for each domain that was
    seen, and w <- (1 - K e_t) softmax(e_(t-1) R) + e_t. A domain of weight 0 stays at 0 and is none of the K.
    """
    drawn = weights > 0
    count, updates = int(drawn.sum()), state.updates + 1
    rewards = torch.tensor(state.rewards, dtype=torch.float64)
    moved = REWARD_KEPT * rewards + (1 - REWARD_KEPT) * seen.losses / weights
    rewards = torch.where(drawn & seen.losses.isfinite(), moved, rewards)
    explored, before = (_exploration(count, number) for number in (updates, state.updates))
    logits = torch.where(drawn, before * rewards, -torch.inf)
    probabilities = (1 - count * explored) * torch.softmax(logits, dim=0) + explored * drawn.double()
    return probabilities, OdmState(rewards=tuple(rewards.tolist()), updates=updates)


def _exploration(count: int, updates: int) -> float:
    return min(1 / count, math.sqrt(math.log(count) / (count * updates))) if updates else 1 / count


# Laws of losses

LEAST_POINTS = 10
"""Updates before the first law is fitted; the mixture stays as it is until then."""
LEAST_PROBABILITY = 0.01
LEAST_EXPONENT = 0.05
HISTORY_KEPT = 0.9
"""How much of the share that a domain had is remembered, a step."""
AVERAGE_KEPT = 0.9
"""How much of the new mixture is the average of all before it."""
POINTS_KEPT = 512
"""Of more, every second one is forgotten."""


@dataclass(frozen=True, kw_only=True)
class AdoState:
    """What the laws are fitted to, and the mixtures so far."""

    prior: Numbers
    """The mixture at the start."""
    average: Numbers
    """Of the mixtures that the laws asked for, over steps; the prior before the first."""
    history: Numbers
    """Moving average of the share that each domain had."""
    step: int = 0
    """Of the last update."""
    sequences: int = 0
    """Drawn until then."""
    points: Numbers = ()
    """Sequences that had been drawn in the middle of each interval between updates."""
    losses: tuple[Numbers, ...] = ()
    """The training losses in them, by domain."""

    @classmethod
    def started(cls, weights: Numbers) -> "AdoState":
        """At the start of a run."""
        return cls(prior=weights, average=weights, history=weights)


class PowerLaw(NamedTuple):
    """loss = floor + scale * n ** -exponent after n sequences of all domains."""

    floor: float
    scale: float
    exponent: float

    def slope(self, sequences: int) -> float:
        """What the next sequence gains, with no exponent below that of the release."""
        reducible = self.scale * math.exp(-self.exponent * math.log(sequences))
        return max(self.exponent, LEAST_EXPONENT) * reducible / sequences


def ado_update(
    weights: Float64[Tensor, "domains"], state: AdoState, seen: Seen
) -> tuple[Float64[Tensor, "domains"], AdoState]:
    """Draw more of the domains whose losses fall the fastest by their laws (arXiv:2410.11820, and its release).

    Each domain's losses have a law of their own, in the sequences of the run. The mixture that they ask for is in
    proportion to prior * slope * sqrt(h (1 - h)), with h what the domain had, and at least 0.01; the new mixture is a
    tenth of it and nine tenths of the average of all that came before.
    """
    steps = seen.step - state.step
    known = torch.tensor(state.losses[-1], dtype=torch.float64) if state.losses else seen.losses.nanmean()
    losses = torch.where(seen.losses.isfinite(), seen.losses, known)
    kept = HISTORY_KEPT**steps
    history = kept * torch.tensor(state.history, dtype=torch.float64) + (1 - kept) * seen.shares
    batch = (seen.sequences - state.sequences) / steps
    state = replace(
        state,
        history=tuple(history.tolist()),
        step=seen.step,
        sequences=seen.sequences,
        points=(*state.points, (state.sequences + seen.sequences + batch) / 2),
        losses=(*state.losses, tuple(losses.tolist())),
    )
    if len(state.points) > POINTS_KEPT:
        state = replace(state, points=state.points[::2], losses=state.losses[::2])
    if len(state.points) < LEAST_POINTS:
        return weights.clone(), state
    points = np.array(state.points)
    laws = [fitted_law(points, np.array(column)) for column in zip(*state.losses, strict=True)]
    slopes = torch.tensor([law.slope(seen.sequences) for law in laws], dtype=torch.float64)
    prior, average = (torch.tensor(part, dtype=torch.float64) for part in (state.prior, state.average))
    drawn = weights > 0
    asked = torch.where(drawn, slopes * prior * (history * (1 - history)).clamp(min=0).sqrt(), 0.0)
    if not asked.sum() > 0:
        return weights.clone(), state
    asked = (asked / asked.sum()).clamp(min=LEAST_PROBABILITY) * drawn
    asked = asked / asked.sum()
    new = torch.where(drawn, AVERAGE_KEPT * average + (1 - AVERAGE_KEPT) * asked, 0.0)
    before = (seen.step - steps + 1) / (seen.step + 1)
    average = before * average + (1 - before) * asked
    return new / new.sum(), replace(state, average=tuple(average.tolist()))


_HUBER = 1e-3
_MOST_EXPONENT, _MOST_LOG_SCALE, _LEAST_LOG_FLOOR = 0.8, 6.5, 0.5
_STARTS = [
    axis.ravel()
    for axis in np.meshgrid(
        np.arange(-2.0, 6), np.arange(-2.0, 2, 0.5), np.arange(0.0, 0.8, 0.1), indexing="ij"
    )
]
_REFINED = 4
"""The best starts, from which the fit goes on; the release goes on from all of them."""


def fitted_law(sequences: NDArray[np.float64], losses: NDArray[np.float64]) -> PowerLaw:
    """The law with the least Huber loss between the logarithms, softly within the bounds of the release of ADO."""
    log_sequences, log_losses = np.log(sequences), np.log(losses)

    def cost(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        scale, floor, exponent = (part[..., None] for part in numbers)
        apart = np.abs(np.logaddexp(scale - exponent * log_sequences, floor) - log_losses)
        huber = np.where(apart > _HUBER, _HUBER * (apart - _HUBER / 2), apart**2 / 2).sum(-1)
        scale, floor, exponent = numbers
        beyond = np.maximum(exponent - _MOST_EXPONENT, 0) - np.minimum(exponent, 0.001)
        found = (
            huber + beyond - np.minimum(floor - _LEAST_LOG_FLOOR, 0) + np.maximum(scale - _MOST_LOG_SCALE, 0)
        )
        return np.asarray(found)

    starts = np.stack(_STARTS)
    best = np.argsort(cost(starts), kind="stable")[:_REFINED]
    found = [minimize(cost, starts[:, number], method="Nelder-Mead", options=_PRECISE) for number in best]
    scale, floor, exponent = min(found, key=lambda each: float(each.fun)).x
    return PowerLaw(math.exp(floor), math.exp(scale), float(exponent))


_PRECISE = {"xatol": 1e-6, "fatol": 1e-10, "maxiter": 2000}
