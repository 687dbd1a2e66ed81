"""Gates of an exact expected size: one shift per row takes the place of the Lagrangian (no multipliers, no overshoot).

A unit's log alpha is sharpness * a + tau: a is its parameter, tau the one number of its row for which the keep
probabilities sum to the size asked for. A unit can rise only where others fall: the units of a row compete.
The logistic noise of a draw is scaled by ``noise``: 1 is that of hard-concrete gates, 0 would be none.
What is shifted has no limits (the parameter has: ``hard_concrete.clamp_``): a row that is sharp is as good as hard.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shear_lit.theory import hard_concrete

_HALVINGS = 48
"""How often the interval in which a shift lies is halved, in effect."""
_PARTS = {"cuda": 64}
"""Into how many parts it is cut at a time: where launching a kernel costs more than what it computes, into many."""
_LEEWAY = 1e-4
"""Units that the sum may miss its size by where no unit is undecided: tau is then put in the middle of the gap."""
_EXTREME = 1e-6


def shifted(
    parameter: Float[Tensor, "*rows units"],
    kept: float,
    *,
    sharpness: float,
    noise: float = 1.0,
    tau: Float[Tensor, "*rows 1"] | None = None,
) -> Float[Tensor, "*rows units"]:
    """The log alpha of every unit, such that the keep probabilities of each row sum to ``kept``.

    ``kept`` is any number from 0 to the units of a row. ``tau``: what ``shifts`` found, or it is found here. The
    gradient, through tau, is that of the implicit function (not twice).
    """
    wide = torch.float32 if parameter.device.type == "mps" else torch.float64
    if tau is None:
        (tau,) = shifts([parameter], [kept], sharpness=sharpness, noise=noise)
    scaled, tau = sharpness * parameter.to(wide), tau.to(wide)
    fixed = scaled.detach()
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
def shifts(
    parameters: Sequence[Float[Tensor, "..."]],
    kept: Sequence[float],
    *,
    sharpness: float,
    noise: float = 1.0,
) -> list[Tensor]:
    """The shift of every row of every parameter ([*rows, 1]), of which each has its size in ``kept``.

    It is the middle of all shifts that keep so many units, give or take ``_LEEWAY`` of one. All rows are searched at
    once, in a fixed number of rounds: no shape depends on values, and nothing waits for the device.
    """
    device = parameters[0].device
    home = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    layout = _layout(tuple(parameter.shape for parameter in parameters), home)
    flat = torch.cat([parameter.detach().reshape(-1).to(home) for parameter in parameters]).double()
    odds = (sharpness * flat - hard_concrete.threshold()) / noise
    sizes, levels = _levels(tuple(kept), layout)
    # Where every unit stood at the level of the largest (smallest), the sum would be at least (at most) as large.
    low = levels - _of_rows(odds, "max", layout)[:, None]
    width = levels - _of_rows(odds, "min", layout)[:, None] - low
    parts = _PARTS.get(home.type, 2)
    steps = torch.arange(1, parts, device=home, dtype=torch.float64) / parts
    for _ in range(math.ceil(_HALVINGS / math.log2(parts))):
        tried = torch.addcmul(low[..., None], width[..., None], steps)
        chances = tried[layout.row].add_(odds[:, None, None]).sigmoid_()
        too_few = _of_rows(chances, "sum", layout) <= sizes[..., None]
        low = torch.addcmul(low, width, too_few.sum(-1, dtype=torch.float64), value=1 / parts)
        width = width / parts
    tau = noise * (low + width / 2).mean(1)
    found, start = [], 0
    for parameter in parameters:
        rows = parameter.shape[:-1].numel()
        found.append(tau[start : start + rows].view(*parameter.shape[:-1], 1).to(device))
        start += rows
    return found


class _Layout:
    """Where the rows of several parameters lie, one behind the other."""

    def __init__(self, shapes: tuple[torch.Size, ...], device: torch.device) -> None:
        self.units = [shape[-1] for shape in shapes for _ in range(shape[:-1].numel())]
        self.rows = [shape[:-1].numel() for shape in shapes]
        self.lengths = torch.tensor(self.units, device=device)
        self.row = torch.arange(len(self.units)).repeat_interleave(torch.tensor(self.units)).to(device)


@lru_cache(maxsize=8)
def _layout(shapes: tuple[torch.Size, ...], device: torch.device) -> _Layout:
    return _Layout(shapes, device)


def _levels(kept: tuple[float, ...], layout: _Layout) -> tuple[Tensor, Tensor]:
    """The sizes to either side of what is asked for, and the odds of units that all stood alike, by row."""
    wanted = [size for size, rows in zip(kept, layout.rows, strict=True) for _ in range(rows)]
    sizes = [
        [min(max(size + side * _LEEWAY, units * _EXTREME), units * (1 - _EXTREME)) for side in (-1, 1)]
        for size, units in zip(wanted, layout.units, strict=True)
    ]
    found = torch.tensor(sizes, dtype=torch.float64)
    share = found / torch.tensor(layout.units)[:, None]
    device = layout.lengths.device
    return found.to(device), share.logit().to(device)


def _of_rows(values: Tensor, what: str, layout: _Layout) -> Tensor:
    return torch.segment_reduce(values, what, lengths=layout.lengths, axis=0, unsafe=True)


def _steepness(log_alpha: Float[Tensor, "*rows units"], noise: float) -> Float[Tensor, "*rows units"]:
    """How fast each keep probability rises, up to a factor that all of them share."""
    odds = (log_alpha - hard_concrete.threshold()) / noise
    return torch.sigmoid(odds) * torch.sigmoid(-odds)
