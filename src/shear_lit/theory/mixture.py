"""Dynamic batch loading: the domain mixture follows the losses (arXiv:2310.06694, section 2.2, algorithm 1)."""

from enum import StrEnum
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

_ROUNDING = 1e-12


class MixtureRule(StrEnum):
    """How the weights of the domains move after a validation."""

    PAPER = "paper"
    """w <- w exp(max(0, loss - reference)), normalised."""
    RELEASE = "release"
    """w <- w exp(loss - reference), normalised, then mixed with the uniform mixture (deviation D1)."""
    STATIC = "static"
    """w stays as it is."""
    ODM = "odm"
    """A bandit that follows training losses (``theory.online_mixture``)."""
    ADO = "ado"
    """Laws of training losses (``theory.online_mixture``)."""

    @property
    def follows(self) -> Literal["validation", "training"] | None:
        """Which losses move the mixture."""
        if self is MixtureRule.STATIC:
            return None
        return "training" if self in (MixtureRule.ODM, MixtureRule.ADO) else "validation"

    @property
    def default_floor(self) -> float:
        """The share of the uniform mixture that the rule mixes in."""
        return 1e-4 if self is MixtureRule.RELEASE else 0.0


def update_weights(
    weights: Float64[Tensor, "domains"],
    loss: Float64[Tensor, "domains"],
    reference: Float64[Tensor, "domains"],
    *,
    rule: MixtureRule = MixtureRule.PAPER,
    floor: float | None = None,
) -> Float64[Tensor, "domains"]:
    """Give more data to the domains that lag their reference loss (losses in nats per token).

    A domain of weight 0 stays at 0, and the ``floor`` is shared among the others (deviation D11).
    ``floor`` defaults to the rule's own.
    """
    if rule is MixtureRule.STATIC:
        return weights.clone()
    floor = rule.default_floor if floor is None else floor
    drawn = weights > 0
    lag = loss - reference
    if rule is MixtureRule.PAPER:
        lag = lag.clamp(min=0)
    # The losses of absent domains may be undefined (nan): they must not reach the others.
    logits = torch.where(drawn, weights.log() + lag, -torch.inf)
    updated = torch.softmax(logits, dim=0)
    uniform = drawn.double() / drawn.sum()
    return (1 - floor) * updated + floor * uniform


def bounded_weights(
    updated: Float64[Tensor, "domains"],
    weights: Float64[Tensor, "domains"],
    *,
    minimum: Float64[Tensor, "domains"],
    maximum: Float64[Tensor, "domains"],
    largest_change: float = 1.0,
) -> Float64[Tensor, "domains"]:
    """Keep an update within bounds by domain, and within ``largest_change`` of the present ``weights``.

    The result is clamp(s·updated, lower, upper) with the one scale s at which it sums to 1: of all mixtures within
    the bounds it is the nearest to ``updated`` in relative entropy, and the domains that no bound holds keep their
    proportions. A domain of weight 0 stays at 0. The interval [lower, upper] of a domain is [minimum, maximum], each
    end moved into [weight - largest_change, weight + largest_change].

    **It always exists** where ``weights`` meet the bounds: then lower ≤ weight ≤ upper, so the lower ends sum to at
    most 1, the upper ends to at least 1, and the sum rises continuously from the one to the other with s. Weights
    that miss the bounds (the weight of an exhausted domain went to the others) go towards them as far as the change
    allows; if the ends then exclude a sum of 1, they give way towards ``weights``, in proportion. The change holds
    in any case.
    """
    drawn = weights > 0
    nearest = (weights - largest_change).clamp(min=0), (weights + largest_change).clamp(max=1)
    lower, upper = (torch.where(drawn, bound.clamp(*nearest), 0.0) for bound in (minimum, maximum))
    lower = _towards(torch.minimum(lower, weights), lower, at_most=True)
    upper = _towards(torch.maximum(upper, weights), upper, at_most=False)
    # Nothing drawn is 0, or no scale could raise it.
    positive = torch.where(drawn, updated.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return _clamped_to_one(positive, lower, upper)


def _towards(
    feasible: Float64[Tensor, "domains"], wanted: Float64[Tensor, "domains"], *, at_most: bool
) -> Float64[Tensor, "domains"]:
    """The point between two bounds that is nearest to ``wanted`` and whose sum is on the right side of 1."""
    start, end = feasible.sum(), wanted.sum()
    if (end <= 1 + _ROUNDING) if at_most else (end >= 1 - _ROUNDING):
        return wanted
    return torch.lerp(feasible, wanted, (1 - start) / (end - start))


def _clamped_to_one(
    values: Float64[Tensor, "domains"], lower: Float64[Tensor, "domains"], upper: Float64[Tensor, "domains"]
) -> Float64[Tensor, "domains"]:
    """clamp(s·values, lower, upper), with s such that it sums to 1.

    The sum is piecewise linear in s and bends where a domain leaves its lower end or meets its upper one.
    """
    drawn = values > 0
    bends = torch.cat([lower[drawn] / values[drawn], upper[drawn] / values[drawn]]).sort().values
    sums = (
        (bends[:, None] * values).clamp(lower, upper).sum(1).cummax(0).values
    )  # rising, whatever the rounding
    before = int((sums <= 1).sum()) - 1  # the last bend before the sum passes 1
    if before < 0 or before + 1 == len(bends):
        return (bends[max(before, 0)] * values).clamp(lower, upper)
    share = (1 - sums[before]) / (sums[before + 1] - sums[before])
    return (torch.lerp(bends[before], bends[before + 1], share) * values).clamp(lower, upper)
