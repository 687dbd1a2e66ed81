"""A choice of blocks after which their kinds still alternate with the period of their family.

Programs that know a family's period, and do not read the list of its blocks' kinds, compute something else from any
other choice, without a word (``Family.period``). What a run pays for it is the score of the blocks that it cannot keep.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig

from shear_lit.models.family import Period
from shear_lit.models.registry import family_of
from shear_lit.theory.shape import ModelShape, ShapeError


def check_period(config: PretrainedConfig, target: ModelShape, *, key: str) -> None:
    """Refuse to keep a period that the model does not have, or that no choice of so many of its blocks has.

    Raises:
        ShapeError: there is none to keep, or it cannot be kept; ``key`` is what the user asked with.
    """
    period = family_of(config).period
    if period is None:
        raise ShapeError(
            f"{key}=true has no effect: blocks of a {config.model_type} model are of one kind. Remove it."
        )
    kinds = getattr(config, period.listed)
    possible = [
        count for count in range(1, len(kinds) + 1) if _best(torch.zeros(len(kinds)), kinds, period, count)
    ]
    if target.layers not in possible:
        listed = f"layers={' or '.join(map(str, possible[-3:]))}" if possible else f"{key}=false"
        raise ShapeError(
            f"{key}=true with layers={target.layers}: no {target.layers} of the source's {len(kinds)} blocks, in their "
            f"order, alternate with a period of {period.blocks}. Use {listed}."
        )


def blocks_in_period(
    scores: Float[Tensor, "blocks"], config: PretrainedConfig, target: ModelShape
) -> tuple[int, ...] | None:
    """The blocks with the largest sum of scores after which kinds alternate; None where the target keeps them all."""
    period = family_of(config).period
    if period is None or target.layers == len(scores):
        return None
    chosen = _best(scores, getattr(config, period.listed), period, target.layers)
    assert chosen is not None, "a target without such a choice is refused first"
    return chosen


def _best(
    scores: Float[Tensor, "blocks"], kinds: Sequence[object], period: Period, count: int
) -> tuple[int, ...] | None:
    """Dynamic programming over the source's blocks: the best way to fill the first n places of the smaller model."""
    best: list[tuple[float, tuple[int, ...]] | None] = [(0.0, ()), *[None] * count]
    for block, score in enumerate(scores.tolist()):
        last = kinds[block] == period.kind
        for place in range(count - 1, -1, -1):  # from the end: a block fills one place only
            before = best[place]
            if before is None or last != period.is_last(place):
                continue
            longer = before[0] + score, (*before[1], block)
            present = best[place + 1]
            if present is None or longer[0] > present[0]:
                best[place + 1] = longer
    filled = best[count]
    return None if filled is None else filled[1]
