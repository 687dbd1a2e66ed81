"""Losses of models of several sizes, continued to another size: L = c + a N^-b (arXiv:2310.06694, appendix)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import t as student

from shear_lit.mistakes import Mistake

Array = NDArray[np.float64]
FARTHEST = 4.0
"""How many times beyond the sizes that were measured a loss is taken for granted."""
_LEAST_POINTS = 3
_LOWEST, _HIGHEST = 1e-3, 3.0
_POWERS: Array = np.geomspace(_LOWEST, _HIGHEST, 160)
_RESAMPLES = 1000


class FitError(Mistake):
    """Points through which no such law goes."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """The law of one domain, and what it says of one size."""

    floor: float
    """c, in nats per token: what the loss goes towards."""
    scale: float
    """a."""
    power: float
    """b."""
    loss: float
    """Of the size that was asked for, in nats per token."""
    stderr: float
    """Its standard error; nan where nothing tells it."""
    interval: tuple[float, float]
    """In which it lies with 95 % confidence, as far as the law holds; nan where nothing tells it."""
    words: tuple[str, ...]
    """What makes it doubtful."""


def fit_law(
    sizes: Float64[np.ndarray, "points"],
    losses: Float64[np.ndarray, "points"],
    errors: Float64[np.ndarray, "points"] | None,
    target: float,
    *,
    seed: int = 0,
) -> Law:
    """Fit the law to the losses of models of so many parameters, and continue it to ``target`` parameters.

    ``errors``: standard errors of the losses. Without them they are estimated from what the fit leaves over, which
    needs four sizes; three without errors are fitted exactly, and nothing tells how far that is off.

    Raises:
        FitError: there are too few sizes, or the loss does not fall with the size.
    """
    if len(np.unique(sizes)) < _LEAST_POINTS:
        raise FitError(
            f"points: {len(np.unique(sizes))} sizes: a law of three numbers needs at least three. Measure more models."
        )
    weights = np.ones_like(losses) if errors is None else 1 / errors
    scaled = sizes / sizes.max()  # powers of numbers near 1 stay far from each other
    power = _best_power(scaled, losses, weights)
    floor, scale = _linear(scaled, losses, weights, power)
    if scale <= 0:
        raise FitError(
            f"points: losses {', '.join(f'{loss:g}' for loss in losses)} do not fall with the size. Correct the points."
        )
    distance = max(target / sizes.max(), sizes.min() / target)
    loss = floor + scale * (target / sizes.max()) ** -power
    left = losses - floor - scale * scaled**-power
    spare = len(losses) - 3
    noise = errors
    if noise is None and spare > 0:
        noise = np.full_like(losses, math.sqrt(float(left @ left) / spare))
    stderr, interval = math.nan, (math.nan, math.nan)
    if noise is not None:
        width = 1.96 if errors is not None else float(student.ppf(0.975, spare))
        stderr, interval = _uncertainty(
            scaled, losses - left, noise, weights, target / sizes.max(), width, seed
        )
    return Law(
        floor=floor,
        scale=scale * float(sizes.max()) ** power,
        power=power,
        loss=float(loss),
        stderr=stderr,
        interval=interval,
        words=tuple(_words(floor, power, distance, exact=noise is None)),
    )


def _words(floor: float, power: float, distance: float, *, exact: bool) -> Sequence[str]:
    found = []
    if distance > FARTHEST:
        found.append(f"EXTRAPOLATED {distance:.1f} times beyond what was measured")
    if exact:
        found.append("EXACT: as many numbers as sizes, so that nothing tells its error")
    if floor < 0:
        found.append(f"ILL-POSED: it goes towards {floor:.2f} nats, which no loss does")
    if power <= 2 * _LOWEST:
        found.append("ILL-POSED: the losses fall as the logarithm of the size, without end")
    if power >= _HIGHEST / 1.01:
        found.append("ILL-POSED: the losses no longer fall with the size")
    return found


def _linear(sizes: Array, losses: Array, weights: Array, power: float) -> tuple[float, float]:
    """c and a of a given b, by least squares."""
    design = np.stack([np.ones_like(sizes), sizes**-power], 1) * weights[:, None]
    floor, scale = np.linalg.lstsq(design, losses * weights, rcond=None)[0]
    return float(floor), float(scale)


def _left_over(sizes: Array, losses: Array, weights: Array, power: float) -> float:
    floor, scale = _linear(sizes, losses, weights, power)
    left = (losses - floor - scale * sizes**-power) * weights
    return float(left @ left)


def _best_power(sizes: Array, losses: Array, weights: Array) -> float:
    found = [_left_over(sizes, losses, weights, power) for power in _POWERS]
    best = int(np.argmin(found))
    low, high = _POWERS[max(0, best - 1)], _POWERS[min(len(_POWERS) - 1, best + 1)]
    result = minimize_scalar(
        lambda log: _left_over(sizes, losses, weights, math.exp(log)),
        bounds=(math.log(low), math.log(high)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(float(result.x))


def _uncertainty(
    sizes: Array, fitted: Array, noise: Array, weights: Array, target: float, width: float, seed: int
) -> tuple[float, tuple[float, float]]:
    """The standard error, and the interval, of losses that are drawn anew around the fit, and fitted again."""
    drawn = fitted + noise * np.random.default_rng(seed).standard_normal((_RESAMPLES, len(fitted)))
    ones = np.ones((len(_POWERS), len(sizes)))
    designs = np.stack([ones, sizes ** -_POWERS[:, None]], -1) * weights[:, None]
    inverses = np.linalg.pinv(designs)
    outside = np.eye(len(sizes)) - designs @ inverses  # what a fit with each power leaves over
    best = (((drawn * weights) @ outside) ** 2).sum(-1).argmin(0)
    numbers = np.einsum("rkn,rn->rk", inverses[best], drawn * weights)
    losses = numbers[:, 0] + numbers[:, 1] * target ** -_POWERS[best]
    low, high = np.quantile(losses, [0.025, 0.975])
    center = float(np.median(losses))
    wider = width / 1.96
    return float((high - low) / 3.92 * wider), (
        center - (center - float(low)) * wider,
        center + (float(high) - center) * wider,
    )
