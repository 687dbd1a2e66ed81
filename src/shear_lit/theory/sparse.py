"""A teacher's distribution by a few of its tokens, so that it can be kept on disk (arXiv:2503.16870).

``top_k`` keeps the most probable tokens, and the mass p' of all others as one more outcome. The divergence from it is
that of these outcomes: sum of p log(p / q) over the tokens, and p' log(p' / q') with the mass q' that the model gives
the others. It is at most the whole one, and equal to it where all tokens are kept; its gradient leaves the model's own
proportions among the others as they are.

``sampled`` draws tokens with the teacher's probabilities, each of which stands for an equal share. The divergence and
its gradient are right on average over the draws, because both are linear in the shares. The paper draws independently;
here one number places all draws of a row (deviation D25).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Sparse(NamedTuple):
    """What a teacher says of some rows, by a few tokens of each."""

    tokens: Int64[Tensor, "*rows kept"]
    """Entries of the vocabulary; one that was drawn twice stands there twice."""
    shares: Float[Tensor, "*rows kept"]
    """Of the probability; with ``outside`` they sum to 1."""
    outside: Float[Tensor, "*rows"] | None
    """The probability of all other entries together; none where the tokens stand for all."""
    negative_entropy: Float[Tensor, "*rows"]
    """The sum of p log p, over the outcomes that are kept, or where tokens are drawn over all."""

    def row_wise(self) -> "Sparse":
        """The same with all rows in one dimension."""
        outside = None if self.outside is None else self.outside.flatten()
        tokens, shares = self.tokens.flatten(0, -2), self.shares.flatten(0, -2)
        return Sparse(tokens, shares, outside, self.negative_entropy.flatten())

    def to(self, device: torch.device | str) -> "Sparse":
        """The same on a device."""
        outside = None if self.outside is None else self.outside.to(device)
        return Sparse(
            self.tokens.to(device), self.shares.to(device), outside, self.negative_entropy.to(device)
        )

    def in_sequences(self, sequences: int) -> "Sparse":
        """The same rows, which are in one dimension, as those of so many sequences."""
        outside = None if self.outside is None else self.outside.view(sequences, -1)
        tokens, shares = (part.view(sequences, -1, part.shape[-1]) for part in (self.tokens, self.shares))
        return Sparse(tokens, shares, outside, self.negative_entropy.view(sequences, -1))

    def at(self, rows: slice | Int64[Tensor, "chosen"]) -> "Sparse":
        """Some of what lies along the first dimension."""
        outside = None if self.outside is None else self.outside[rows]
        return Sparse(self.tokens[rows], self.shares[rows], outside, self.negative_entropy[rows])

    @classmethod
    def joined(cls, parts: "Sequence[Sparse]") -> "Sparse":
        """The rows of one after the other's; of all of them something is outside, or of none."""
        outside = [part.outside for part in parts if part.outside is not None]
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.shares for part in parts]),
            torch.cat(outside) if outside else None,
            torch.cat([part.negative_entropy for part in parts]),
        )


def top_k(log_p: Float[Tensor, "rows vocabulary"], kept: int) -> Sparse:
    """The ``kept`` most probable tokens of each row, and the mass outside of them."""
    largest = log_p.topk(min(kept, log_p.shape[1]), dim=-1)
    shares, outside = largest.values.exp(), _log_outside(log_p, largest.indices).logsumexp(-1).exp()
    return Sparse(largest.indices, shares, outside, outcomes_negative_entropy(shares, outside))


def sampled(log_p: Float[Tensor, "rows vocabulary"], kept: int, uniform: Float[Tensor, "rows"]) -> Sparse:
    """``kept`` tokens of each row, drawn at random; on average over ``uniform`` numbers in [0, 1), their shares are p.

    Where p is cut into ``kept`` equal parts, one token is read in each, all at the same place: a token of probability p
    is drawn floor(kept p) or ceil(kept p) times.
    """
    wide = torch.float32 if log_p.device.type == "mps" else torch.float64  # which that device does not have
    ends = log_p.to(wide).exp().cumsum(-1)
    places = (torch.arange(kept, device=log_p.device) + uniform.to(wide)[:, None]) / kept
    tokens = torch.searchsorted(ends, places * ends[:, -1:], right=True).clamp_(max=log_p.shape[1] - 1)
    shares = torch.full(tokens.shape, 1 / kept, dtype=log_p.dtype, device=log_p.device)
    p = log_p.exp()
    return Sparse(tokens, shares, None, torch.xlogy(p, p).sum(-1))


def outcomes_negative_entropy(
    shares: Float[Tensor, "*rows kept"], outside: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """The sum of p log p over tokens and what is outside of them."""
    return torch.xlogy(shares, shares).sum(-1) + torch.xlogy(outside, outside)


def sparse_divergence(
    log_q: Float[Tensor, "rows vocabulary"], said: Sparse, *, needs: bool
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows vocabulary"] | None]:
    """KL of what is kept of each row from the model's ``log_q``, and where it ``needs`` be its slope in the logits.

    The slope is q - p, where p has the shares at the tokens, and elsewhere the mass outside in the proportions of q.
    """
    shares = said.shares.to(log_q.dtype)
    found = said.negative_entropy.to(log_q.dtype) - (shares * log_q.gather(1, said.tokens)).sum(-1)
    slope = log_q.exp().scatter_add_(1, said.tokens, -shares) if needs else None
    if said.outside is not None:
        outside = said.outside.to(log_q.dtype)
        others = _log_outside(log_q, said.tokens)
        log_mass = others.logsumexp(-1)
        # Where nothing is outside, both masses are 0, and so is what they add.
        found -= torch.where(outside > 0, outside * log_mass, 0.0)
        if slope is not None:
            scale = torch.where(outside > 0, outside.log() - log_mass, -math.inf)
            slope -= others.add_(scale[:, None]).exp_()
    return found, slope


def _log_outside(log_p: Tensor, tokens: Tensor) -> Tensor:
    return log_p.scatter(1, tokens, -math.inf)
