"""The size constraint: a Lagrangian penalty on the expected sizes (arXiv:2310.06694, eqs. 2 and 3).

Minimised over the gates and maximised over the multipliers (arXiv:2204.00408, section 3.2, where the form comes from).
"""

from jaxtyping import Float
from torch import Tensor


def sparsity(keep_probability: Float[Tensor, "*rows units"]) -> Float[Tensor, "*rows"]:
    """The expected fraction of units that each row loses."""
    return 1 - keep_probability.mean(-1)


def scheduled_sparsity(step: int, *, start: float, target: float, warmup_steps: int) -> float:
    """The sparsity asked for at optimizer step ``step``: linear from ``start`` to ``target``, then constant."""
    progress = 1.0 if warmup_steps == 0 else min(1.0, step / warmup_steps)
    return start + (target - start) * progress


def stage_of(step: int, *, stages: int, warmup_steps: int) -> int:
    """How many of ``stages`` equal parts of the way to the target are behind at optimizer step ``step``."""
    return min(stages, stages * step // warmup_steps)


def size_penalty(
    sparsity: Float[Tensor, "*rows"],
    target: Float[Tensor, ""] | float,
    first: Float[Tensor, ""],
    second: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The penalty of one axis: mean over its rows of ``first`` (s - t) + ``second`` (s - t)².

    ``first`` and ``second`` are the axis' multipliers: they start at 0 and **ascend**.
    """
    excess = sparsity - target
    return (first * excess + second * excess.square()).mean()
