"""Hard-concrete gates: differentiable on/off switches (arXiv:1712.01312, section 2.2; arXiv:2310.06694, section 2.1).

A unit's gate is z, in [0, 1]; its only parameter is log alpha. With u ~ U(0, 1):
z = clamp(sigmoid((log u - log(1 - u) + log alpha) / BETA) * (ZETA - GAMMA) + GAMMA, 0, 1).
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3
"""The stretch limits and the temperature of the paper."""

LOG_ALPHA_LIMIT = math.log(1e2)
"""log alpha lives in [-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT]: it is clamped before each use, and starts at the top."""

_PROBABILITY_LIMIT = 1e-6
_DETERMINISTIC_SCALE = 0.8  # the authors' release evaluates sigmoid(0.8 log alpha / BETA)


def clamped(log_alpha: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """``log_alpha`` inside the limits within which gates are defined; its gradient passes the limits unchanged.

    The gradient of ``torch.clamp`` is 0 at a limit, which is where gates start: they would never leave it.
    """
    inside = log_alpha.detach().clamp(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT)
    return inside + (log_alpha - log_alpha.detach())


@torch.no_grad()
def clamp_(log_alpha: Float[Tensor, "*units"]) -> None:
    """Bring the parameter itself inside its limits, in place: after each optimizer step.

    The authors' release does so before each forward pass. Without it, a gate that was pushed far beyond
    a limit needs as many steps to come back.
    """
    log_alpha.clamp_(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT)


def keep_probability(log_alpha: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """P(z > 0), within [1e-6, 1 - 1e-6]; what the size constraint counts (arXiv:1712.01312, eq. 12)."""
    return probability(clamped(log_alpha) - threshold())


def threshold() -> float:
    """The log alpha above which a gate without noise is open."""
    return BETA * math.log(-GAMMA / ZETA)


def probability(log_odds: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """The probability of ``log_odds``, within [1e-6, 1 - 1e-6]."""
    return (1 - torch.sigmoid(-log_odds)).clamp(_PROBABILITY_LIMIT, 1 - _PROBABILITY_LIMIT)


def stretched(log_alpha: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """The gate at ``log_alpha``, noise included: a sigmoid stretched to [GAMMA, ZETA] and clamped to [0, 1]."""
    return (torch.sigmoid(log_alpha / BETA) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def sample(log_alpha: Float[Tensor, "*units"], uniform: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """One reparameterised draw of the gates (arXiv:1712.01312, eqs. 10 and 11).

    ``uniform`` lies in (0, 1), ends excluded; it is an argument so that the noise can be keyed.
    """
    return stretched(logistic(uniform) + clamped(log_alpha))


def logistic(uniform: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """Logistic noise from uniform noise."""
    return torch.log(uniform) - torch.log1p(-uniform)


def expected_kept(log_alpha: Float[Tensor, "*rows units"]) -> Int[Tensor, "*rows"]:
    """The number of units a row keeps "as it is now": its expected number, rounded, at least 1 (deviation D9)."""
    expected = keep_probability(log_alpha).sum(-1).round().to(torch.int64)
    return expected.clamp(min=1)


def kept_units(
    log_alpha: Float[Tensor, "*rows units"], kept: Int[Tensor, "*rows"]
) -> Bool[Tensor, "*rows units"]:
    """The ``kept`` units of each row with the largest log alpha; of equal ones, the first (deviation D10)."""
    return highest(clamped(log_alpha), kept)


def highest(values: Float[Tensor, "*rows units"], kept: Int[Tensor, "*rows"]) -> Bool[Tensor, "*rows units"]:
    """The ``kept`` units of each row with the largest values; of equal ones, the first."""
    order = torch.argsort(values, dim=-1, descending=True, stable=True)
    rank = torch.argsort(order, dim=-1, stable=True)
    return rank < kept.unsqueeze(-1)


def deterministic(
    log_alpha: Float[Tensor, "*rows units"], kept: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows units"]:
    """Gates for evaluation and for cutting: soft where kept, exactly 0 elsewhere.

    The authors' release scales log alpha by 0.8 here, and so do we.
    """
    return evaluated(clamped(log_alpha), kept)


def evaluated(
    log_alpha: Float[Tensor, "*rows units"], kept: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows units"]:
    """``deterministic`` for a log alpha that has no limits."""
    soft = torch.sigmoid(_DETERMINISTIC_SCALE * log_alpha / BETA)
    return torch.where(highest(log_alpha, kept), soft, torch.zeros_like(soft))


def straight_through(
    forward: Float[Tensor, "*units"], backward: Float[Tensor, "*units"]
) -> Float[Tensor, "*units"]:
    """Gates with the values of ``forward``, to the last bit, and the gradient of ``backward`` (arXiv:1308.3432)."""
    return forward.detach() + (backward - backward.detach())
