"""Cross-entropy and divergences from hidden states and heads, in chunks: whole logits never exist, of neither model.

The gradients are computed with the losses, chunk by chunk, so that no logit outlives its chunk. Divergences between
distributions p (the teacher's) and q at temperature T are multiplied by T² (Hinton et al., arXiv:1503.02531), which
keeps their gradients' scale. All sums are float32 or wider.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from shear_lit.theory.sparse import Sparse, sparse_divergence

IGNORED = -100
"""The target of a row from which nothing is predicted."""
CHUNK_LOGITS = 1 << 24
"""Of one model, at a time: 64 MiB of float32."""

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


class Head(NamedTuple):
    """What turns hidden states into logits."""

    weight: Float[Tensor, "vocabulary hidden"]
    bias: Float[Tensor, "vocabulary"] | None = None
    cap: float | None = None
    """Soft cap c: c tanh(logit / c) in place of a logit (Gemma 2)."""


class Given(NamedTuple):
    """What a teacher says of the same rows."""

    hidden: Float[Tensor, "rows width"]
    head: Head


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the terms of an objective are multiplied by."""

    language: float = 1.0
    """Of cross-entropy."""
    divergence: float = 0.0
    """Of the divergence from the teacher."""
    temperature: float = 1.0
    kind: Divergence = "forward_kl"


class Sums(NamedTuple):
    """Sums over all rows that count, in nats."""

    total: Float[Tensor, ""]
    """The objective, with gradient."""
    language: Float[Tensor, ""]
    divergence: Float[Tensor, ""]
    tokens: Float[Tensor, "rows"]
    """Cross-entropy of each row; 0 where none is predicted."""


def next_tokens(labels: Int64[Tensor, "sequences tokens"]) -> Int64[Tensor, "sequences tokens"]:
    """The target of each position: the label of the one after it; none after the last."""
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], dim=1)


def objective(
    hidden: Float[Tensor, "*rows width"],
    head: Head,
    targets: Int64[Tensor, "*rows"],
    weights: Weights,
    teacher: Given | Sparse | None = None,
) -> Sums:
    """The weighted sum of the losses of all rows whose target is not ``IGNORED``; their labels' sums beside it.

    Where the heads have different numbers of entries, the divergence is between the entries that both have. Of what is
    ``Sparse``, which was found at the temperature of the ``weights``, there is the forward KL alone.
    """
    rows = hidden.flatten(0, -2)
    if torch.is_autocast_enabled(hidden.device.type):
        rows = rows.to(torch.get_autocast_dtype(hidden.device.type))
    if isinstance(teacher, Given):
        teacher = Given(teacher.hidden.flatten(0, -2), teacher.head)
    elif teacher is not None:
        assert weights.kind == "forward_kl", weights.kind
        teacher = teacher.row_wise()
    needs = torch.is_grad_enabled() and (rows.requires_grad or head.weight.requires_grad)
    return Sums(
        *_Objective.apply(rows, head.weight, head.bias, head.cap, targets.flatten(), weights, teacher, needs)
    )


@torch.no_grad()
def token_losses(
    hidden: Float[Tensor, "*rows width"], head: Head, targets: Int64[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """The cross-entropy of each row in nats, without gradient; 0 where the target is ``IGNORED``."""
    rows, wanted = hidden.flatten(0, -2), targets.flatten()
    losses = torch.zeros(len(rows), dtype=_wide(rows.dtype), device=rows.device)
    for part in _chunks(len(rows), head):
        losses[part] = _cross_entropy(_logits(rows[part], head).log_softmax(-1), wanted[part])
    return losses.view(targets.shape)


@torch.no_grad()
def sparse_targets(
    hidden: Float[Tensor, "*rows width"],
    head: Head,
    temperature: float,
    keep: Callable[[Tensor, slice], Sparse],
) -> Sparse:
    """What ``keep`` makes of the log probabilities of each chunk of rows and of its place, rows in one dimension."""
    rows = hidden.flatten(0, -2)
    return Sparse.joined(
        [
            keep((_logits(rows[part], head) / temperature).log_softmax(-1), part)
            for part in _chunks(len(rows), head)
        ]
    )


class _Objective(torch.autograd.Function):
    """Sums of losses whose gradients are there before they are asked for, up to the one number that multiplies all."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, cap, targets, weights, teacher, needs):  # type: ignore[no-untyped-def]
        with torch.autocast(hidden.device.type, enabled=False):
            sums, ctx.gradients = _summed(
                hidden, Head(weight, bias, cap), targets, weights, teacher, needs=needs
            )
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
        # In place: a head's gradient is as large as the head. There is no second backward through the same pass.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if part is None else part.mul_(grad.to(part.dtype)) for part in gradients]
        return (*scaled, None, None, None, None, None)


def _summed(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    weights: Weights,
    teacher: Given | Sparse | None,
    *,
    needs: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[Any, Any, Any]]:
    """What ``Sums`` has, and the gradients of hidden states, weight and bias."""
    wide = _wide(hidden.dtype)
    head, weight = head._replace(weight=head.weight.to(hidden.dtype)), head.weight
    language, divergence = (torch.zeros((), dtype=wide, device=hidden.device) for _ in range(2))
    tokens = torch.zeros(len(hidden), dtype=wide, device=hidden.device)
    grad_hidden = torch.empty_like(hidden) if needs else None
    grad_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if needs else None
    grad_bias = torch.zeros_like(head.bias, dtype=wide) if needs and head.bias is not None else None
    for part in _chunks(len(hidden), head):
        rows, wanted = hidden[part], targets[part]
        counted = (wanted != IGNORED)[:, None]
        logits = _logits(rows, head)
        log_q = logits.log_softmax(-1)
        tokens[part] = _cross_entropy(log_q, wanted)
        language += tokens[part].sum()
        slope, plain = None, False
        if isinstance(teacher, Sparse) and weights.divergence:
            diverged, slope = _diverged_from_kept(logits, log_q, teacher.at(part), weights, needs=needs)
            divergence += torch.where(counted[:, 0], diverged, 0.0).sum()
        elif isinstance(teacher, Given) and weights.divergence:
            theirs = _logits(teacher.hidden[part], teacher.head).to(wide)
            plain = weights.kind == "forward_kl" and weights.temperature == 1 and theirs.shape == logits.shape
            if plain:
                log_p = theirs.log_softmax(-1)
                slope = log_p.exp()  # p, of which q - p is the slope
                diverged = _row_products(slope, log_p) - _row_products(slope, log_q)
            else:
                diverged, slope = _diverged(logits, log_q, theirs, weights, needs=needs)
            divergence += torch.where(counted[:, 0], diverged, 0.0).sum()
        grad, factor = _gradient(log_q, wanted, slope, weights, plain=plain) if needs else (None, 1.0)
        if grad is not None and grad_hidden is not None and grad_weight is not None:
            if head.cap is not None:
                grad *= 1 - (logits / head.cap).square()
            # Rows that do not count are left out of what is small: a pass over logits costs more.
            narrow, rows = grad.to(hidden.dtype), torch.where(counted, factor * rows, 0.0)
            grad_hidden[part] = torch.where(counted, factor * (narrow @ head.weight), 0.0)
            if narrow.dtype == grad_weight.dtype:
                grad_weight.addmm_(narrow.T, rows)
            else:
                grad_weight += narrow.T @ rows
            if grad_bias is not None:
                grad_bias += factor * (counted.T.to(grad.dtype) @ grad)[0]
    total = weights.language * language + weights.divergence * divergence
    if grad_weight is not None:
        grad_weight = grad_weight.to(weight.dtype)
    return (total, language, divergence, tokens), (grad_hidden, grad_weight, grad_bias)


def _row_products(first: Tensor, second: Tensor) -> Tensor:
    """The scalar product of each pair of rows, without a matrix of products."""
    return torch.bmm(first[:, None], second[..., None]).flatten()


def _gradient(
    log_q: Tensor, targets: Tensor, slope: Tensor | None, weights: Weights, *, plain: bool
) -> tuple[Tensor, float]:
    """What the objective of each row changes by with its logits, and a factor that is left to be multiplied by.

    ``slope`` is what the divergence does, or where it is ``plain``, p alone. Both are overwritten.
    """
    hit, language, factor = targets.clamp(min=0)[:, None], weights.language, 1.0
    if plain and slope is not None:
        factor, language = -weights.divergence, -language / weights.divergence
        grad = slope.sub_(log_q.exp_(), alpha=1 - language)
    else:
        grad = log_q.exp_().mul_(language) if language != 1 else log_q.exp_()
        if slope is not None:
            grad[:, : slope.shape[1]].add_(slope, alpha=weights.divergence)
    if language:
        grad.scatter_add_(1, hit, grad.new_full((len(grad), 1), -language))
    return grad, factor


def _diverged(
    logits: Tensor, log_q: Tensor, theirs: Tensor, weights: Weights, *, needs: bool
) -> tuple[Tensor, Tensor | None]:
    """The divergence of each row, and its gradient with respect to the logits that both heads have."""
    both, temperature = min(logits.shape[1], theirs.shape[1]), weights.temperature
    if temperature != 1 or both != logits.shape[1]:
        log_q = (logits[:, :both] / temperature).log_softmax(-1)
    log_p = (theirs[:, :both] / temperature).log_softmax(-1)
    if weights.kind == "forward_kl":
        p = log_p.exp()
        found = (p * (log_p - log_q)).sum(-1)
        slope = log_q.exp().sub_(p) if needs else None
    else:
        q = log_q.exp()
        if weights.kind == "reverse_kl":
            apart = log_q - log_p
            found = (q * apart).sum(-1)
            slope = q * (apart - found[:, None]) if needs else None
        else:
            middle = torch.logaddexp(log_p, log_q) - math.log(2)
            apart = log_q - middle
            theirs_apart = (log_p.exp() * (log_p - middle)).sum(-1)
            ours_apart = (q * apart).sum(-1)
            found = (theirs_apart + ours_apart) / 2
            slope = q * (apart - ours_apart[:, None]) / 2 if needs else None
    return found * temperature**2, None if slope is None else slope.mul_(temperature)


def _diverged_from_kept(
    logits: Tensor, log_q: Tensor, said: Sparse, weights: Weights, *, needs: bool
) -> tuple[Tensor, Tensor | None]:
    """The divergence of each row from what was kept of the teacher, and its gradient with respect to the logits."""
    temperature = weights.temperature
    if temperature != 1:
        log_q = (logits / temperature).log_softmax(-1)
    found, slope = sparse_divergence(log_q, said, needs=needs)
    return found * temperature**2, None if slope is None else slope.mul_(temperature)


def _logits(rows: Tensor, head: Head) -> Tensor:
    """In float32 or wider, of a product in the rows' own precision."""
    logits = rows @ head.weight.to(rows.dtype).T
    if head.bias is not None:
        logits = logits + head.bias.to(rows.dtype)
    logits = logits.to(_wide(rows.dtype))
    return logits if head.cap is None else (logits / head.cap).tanh_().mul_(head.cap)


def _cross_entropy(log_q: Tensor, targets: Tensor) -> Tensor:
    """Of each row; 0 where nothing is predicted."""
    losses = -log_q.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets != IGNORED, losses, 0.0)


def _chunks(rows: int, head: Head) -> list[slice]:
    size = max(1, CHUNK_LOGITS // len(head.weight))
    return [slice(start, start + size) for start in range(0, rows, size)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
