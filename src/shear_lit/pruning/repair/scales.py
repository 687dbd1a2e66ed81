"""Refits of one number per channel: the weight of a norm behind a writer, or of the last one before a tied head."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from shear_lit.pruning.repair.moments import Fit, Moments, apart, judged
from shear_lit.ranking.importance import Reduce


def refit_scales(
    text: Iterable[tuple[Float[Tensor, "tokens channels"], Float[Tensor, "tokens channels"], int]],
    channels: int,
    reduce: Reduce | None,
    shares: Sequence[float],
    device: torch.device,
) -> Fit:
    """Factors s of channels with argmin sum |s a - y|^2 + share * mean(sum a^2) * (s - 1)^2.

    ``text`` has what channels put out, what they should, and how many of the tokens, the first, are not held out.
    """
    sums = torch.zeros(2, 3, channels, dtype=torch.float64, device=device)
    for given, wanted, fitted in text:
        for part, rows in enumerate(zip(*(apart(of, fitted) for of in (given, wanted)), strict=True)):
            a, y = (of.to(sums) for of in rows)
            sums[part] += torch.stack([a.square().sum(0), (a * y).sum(0), y.square().sum(0)])
    if reduce is not None:
        sums = reduce(sums)

    def solved(part: Tensor, share: float) -> Tensor:
        pull = share * part[0].mean()
        return (part[1] + pull) / (part[0] + pull)

    def error(scale: Tensor) -> float:
        squares, products, wanted = sums[1]
        left = scale.square() * squares - 2 * scale * products + wanted
        return float((left / wanted.clamp(min=1e-300))[wanted > 0].mean()) if (wanted > 0).any() else 0.0

    return judged(
        start=torch.ones(channels, dtype=torch.float64, device=device),
        fitted=lambda share: solved(sums[0], share) if sums[0, 0].mean() > 0 else None,
        final=lambda share: solved(sums.sum(0), share),
        error=error,
        shares=shares,
    )


def refit_head_norm(
    moments: Moments,
    source_head: Float[Tensor, "vocabulary targets"],
    head: Float[Tensor, "vocabulary inputs"],
    *,
    shares: Sequence[float],
) -> Fit:
    """Factors s of the channels of the last norm, for which head diag(s) a comes closest to the source's logits."""
    wide, source_wide = head.to(moments.gram), source_head.to(moments.gram)
    among, between = wide.mT @ wide, wide.mT @ source_wide
    grams = among * moments.gram
    products = (between * moments.cross).sum(-1)
    squares = ((source_wide.mT @ source_wide) * moments.target).sum()

    def solved(gram: Tensor, product: Tensor, share: float) -> Tensor:
        pull = share * gram.diagonal().mean()
        return torch.linalg.solve(gram + pull * torch.eye(len(gram)).to(gram), product + pull)

    def error(scale: Tensor) -> float:
        left = scale @ grams[1] @ scale - 2 * scale @ products[1] + squares
        return float(left / squares.clamp(min=1e-300))

    return judged(
        start=torch.ones(len(products[0]), dtype=grams.dtype, device=grams.device),
        fitted=lambda share: solved(grams[0], products[0], share),
        final=lambda share: solved(grams.sum(0), products.sum(0), share),
        error=error,
        shares=shares,
    )
