"""Gates of an exact expected size: one shift per row takes the place of the Lagrangian (no multipliers, no overshoot).

A unit's log alpha is sharpness * a + tau: a is its parameter, tau the one number of its row for which the keep
probabilities sum to the size asked for. A unit can rise only where others fall: the units of a row compete.
The logistic noise of a draw is scaled by ``noise``: 1 is that of hard-concrete gates, 0 would be none.
What is shifted has no limits (the parameter has: ``hard_concrete.clamp_``): a row that is sharp is as good as hard.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shear_lit.theory import hard_concrete

_BISECTIONS = 48
_LEEWAY = 1e-4
"""Units that the sum may miss its size by where no unit is undecided: tau is then put in the middle of the gap."""
_EXTREME = 1e-6


def shifted(
    parameter: Float[Tensor, "*rows units"], kept: float, *, sharpness: float, noise: float = 1.0
) -> Float[Tensor, "*rows units"]:
    """The log alpha of every unit, such that the keep probabilities of each row sum to ``kept``.

    ``kept`` is any number from 0 to the units of a row. A fixed number of bisections: no shape depends on values and
    nothing waits for the device. The gradient, through tau, is that of the implicit function (not twice).
    """
    wide = torch.float32 if parameter.device.type == "mps" else torch.float64
    scaled = sharpness * parameter.to(wide)
    fixed = scaled.detach()
    tau = _tau(fixed, kept, noise)
    slope = _steepness(fixed + tau, noise)
    share = slope / slope.sum(-1, keepdim=True).clamp(min=torch.finfo(wide).tiny)
    # d tau = - sum over the row of share * d scaled: the sum of the probabilities stays.
    tau = tau - (share * (scaled - fixed)).sum(-1, keepdim=True)
    return (scaled + tau).to(parameter.dtype)


def keep_probability(log_alpha: Float[Tensor, "*units"], *, noise: float = 1.0) -> Float[Tensor, "*units"]:
    """P(gate > 0) at a shifted log alpha, within [1e-6, 1 - 1e-6]."""
    return hard_concrete.probability((log_alpha - hard_concrete.threshold()) / noise)


def sample(
    log_alpha: Float[Tensor, "*units"], uniform: Float[Tensor, "*units"], *, noise: float = 1.0
) -> Float[Tensor, "*units"]:
    """One draw of the gates at a shifted log alpha."""
    return hard_concrete.stretched(noise * hard_concrete.logistic(uniform) + log_alpha)


def deterministic(
    log_alpha: Float[Tensor, "*rows units"], kept: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows units"]:
    """Gates for evaluation and for cutting, at a shifted log alpha: soft where kept, exactly 0 elsewhere."""
    return hard_concrete.evaluated(log_alpha, kept)


def sharpness_at(progress: float, *, start: float, final: float) -> float:
    """A factor that goes from ``start`` to ``final`` by equal ratios while ``progress`` goes from 0 to 1."""
    ratio = final / start
    return start * math.exp(math.log(ratio) * min(1.0, max(0.0, progress)))


@torch.no_grad()
def _tau(scaled: Float[Tensor, "*rows units"], kept: float, noise: float) -> Float[Tensor, "*rows 1"]:
    """The middle of all shifts that keep ``kept`` units, give or take ``_LEEWAY`` of one."""
    units = scaled.shape[-1]
    sizes = [min(max(kept + side * _LEEWAY, units * _EXTREME), units * (1 - _EXTREME)) for side in (-1, 1)]
    return (_bisected(scaled, sizes[0], noise) + _bisected(scaled, sizes[1], noise)) / 2


def _bisected(scaled: Float[Tensor, "*rows units"], kept: float, noise: float) -> Float[Tensor, "*rows 1"]:
    share = kept / scaled.shape[-1]
    # Where every unit stood at the level of the largest (smallest), the sum would be at least (at most) as large.
    level = hard_concrete.threshold() + noise * math.log(share / (1 - share))
    low, high = level - scaled.amax(-1, keepdim=True), level - scaled.amin(-1, keepdim=True)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        odds = (scaled + middle - hard_concrete.threshold()) / noise
        enough = torch.sigmoid(odds).sum(-1, keepdim=True) > kept
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return (low + high) / 2


def _steepness(log_alpha: Float[Tensor, "*rows units"], noise: float) -> Float[Tensor, "*rows units"]:
    """How fast each keep probability rises, up to a factor that all of them share."""
    odds = (log_alpha - hard_concrete.threshold()) / noise
    return torch.sigmoid(odds) * torch.sigmoid(-odds)
