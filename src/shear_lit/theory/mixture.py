"""Dynamic batch loading: the domain mixture follows the losses (arXiv:2310.06694, section 2.2, algorithm 1)."""

from enum import StrEnum

import torch
from jaxtyping import Float64
from torch import Tensor


class MixtureRule(StrEnum):
    """How the weights of the domains move after a validation."""

    PAPER = "paper"
    """w <- w exp(max(0, loss - reference)), normalised."""
    RELEASE = "release"
    """w <- w exp(loss - reference), normalised, then mixed with the uniform mixture (deviation D1)."""
    STATIC = "static"
    """w stays as it is."""

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
