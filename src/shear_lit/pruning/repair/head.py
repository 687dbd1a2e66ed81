"""Refits of what turns the stream into logits: an untied head, a tied embedding, or the last norm before it.

Logits are linear in what the last norm puts out: the source's are E n, and those of its cut are E S m, with its own m
and a small map S. A tied head is the embedding as well, which the first block reads: it goes half of the way, and
before all else, by what the source's own kept entries say of the others.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shear_lit.models.family import Family, NormKind
from shear_lit.pruning.carve import scale_ratio
from shear_lit.pruning.repair.moments import Fit, Moments, Refitted, judged, put, ridge, with_bias
from shear_lit.pruning.repair.passages import Pair, PairMoments, Text, thinned
from shear_lit.pruning.repair.scales import refit_head_norm
from shear_lit.ranking.importance import Passage

WAY_OF_A_TIED_HEAD = 0.5
"""Half of the way and all of it are alike: benchmarks/results/repair_cpu2_2026-11.md."""
TOKENS_A_CHANNEL = 16
"""Text that a tied embedding is refitted on, for each channel of the source."""


def head_is_tied(family: Family) -> bool:
    """Whether the head is the embedding."""
    return not any(cut.tensor == "lm_head.weight" for cut in family.cuts)


@torch.no_grad()
def refit_tied_embedding(pair: Pair, text: Iterable[Passage]) -> Refitted:
    """Let the columns that are kept stand in for the others, as far as the source's last stream foretells those."""
    family = pair.source.family
    texts = pair.begun(thinned(text, TOKENS_A_CHANNEL * family.shape.hidden, pair.reduce))
    pair.advance(texts, range(family.shape.layers))
    moments, norm = PairMoments(pair, biased=False), pair.source.module(_last_norm(family)).to(pair.device)
    # What the cut's embedding has more than its columns of the source's, its last norm has less.
    constant = scale_ratio(family, len(pair.kept.hidden))
    for passage in texts:
        wanted = norm(passage.source.to(pair.device))
        moments.add_rows(passage, pair.of_kept(wanted) / constant, wanted)
    norm.cpu()
    name = f"{family.embedding}.weight"
    wide, own = (model.parameter(name).detach() for model in (pair.source, pair.carved))
    fit = refit_head(moments.summed(pair.reduce), wide, own, shares=pair.shares, way=WAY_OF_A_TIED_HEAD)
    if fit.weight is not None:
        put(pair.carved.module(family.embedding), fit.weight, biased=False)
    return fit.noted(name)


def refit_untied_head(pair: Pair, texts: list[Text]) -> Refitted:
    """Towards the source's logits, by what the last norms put out."""
    full, small = (model.module("lm_head") for model in (pair.source, pair.carved))
    biased = getattr(small, "bias", None) is not None
    moments = _behind_last_norm(pair, texts, biased=biased)
    wide, own = (
        with_bias(head) if biased else head.get_parameter("weight").detach() for head in (full, small)
    )
    fit = refit_head(moments, wide, own, shares=pair.shares)
    if fit.weight is not None:
        put(small, fit.weight, biased=biased)
    return fit.noted("lm_head.weight")


def refit_last_norm(pair: Pair, texts: list[Text]) -> Refitted:
    """The norm before a tied head, towards the source's logits."""
    moments, family = _behind_last_norm(pair, texts, biased=False), pair.carved.family
    heads = (model.parameter(f"{family.embedding}.weight").detach() for model in (pair.source, pair.carved))
    fit, name = refit_head_norm(moments, *heads, shares=pair.shares), _last_norm(family)
    if fit.weight is not None:
        scale_norm(pair.carved.module(name), fit.weight, family, name)
    return fit.noted(f"{name}.weight")


def refit_head(
    moments: Moments,
    source_head: Float[Tensor, "vocabulary targets"],
    head: Float[Tensor, "vocabulary inputs"],
    *,
    shares: Sequence[float],
    way: float = 1.0,
) -> Fit:
    """argmin |A W^T - N E^T|^2 + sum_j p_j |W_j - head_j|^2, or ``way`` of the way there from ``head``.

    The pull p is that of ``moments.refit``. E is ``source_head``. A and N are what the last norms put out: the inputs
    and the targets of ``moments``. ``head`` is E times a map, as all that is cut from E.
    """
    wide = source_head.to(moments.gram)
    among = wide.mT @ wide
    start = torch.linalg.pinv(among, hermitian=True) @ (wide.mT @ head.to(wide))
    # What all logits have in common changes no probability.
    centred = among - wide.sum(0)[:, None] * wide.mean(0)
    squares = (centred * moments.target).sum()

    def solved(gram: Tensor, cross: Tensor, share: float) -> Tensor | None:
        found = ridge(gram, cross, start, share)
        return None if found is None else start + way * (found - start)

    def error(found: Tensor) -> float:
        left = (centred * (found @ (moments.gram[1] @ found.mT - 2 * moments.cross[1]))).sum() + squares
        return float(left / squares.clamp(min=1e-300))

    fit = judged(
        start=start,
        fitted=lambda share: solved(moments.gram[0], moments.cross[0], share),
        final=lambda share: solved(moments.gram.sum(0), moments.cross.sum(0), share),
        error=error,
        shares=shares,
    )
    return fit.of(None if fit.weight is None else wide @ fit.weight)


def scale_norm(norm: nn.Module, scale: Tensor, family: Family, name: str) -> None:
    """Multiply what a norm puts out, by channel; ``name`` is the module's, or how it ends."""
    kinds = {declared.module.rpartition(".")[2]: declared.kind for declared in family.norms}
    weight = norm.get_parameter("weight")
    extra = 1.0 if kinds[name.rpartition(".")[2]] is NormKind.ONE_PLUS_RMS else 0.0
    with torch.no_grad():
        weight.copy_((weight.double() + extra) * scale.to(weight.device) - extra)
        if getattr(norm, "bias", None) is not None:
            norm.get_parameter("bias").mul_(scale.to(weight.device))


@torch.no_grad()
def _behind_last_norm(pair: Pair, texts: list[Text], *, biased: bool) -> Moments:
    """The moments of what the last norms put out."""
    moments, models = PairMoments(pair, biased=biased), (pair.source, pair.carved)
    full, small = (model.module(_last_norm(model.family)).to(pair.device) for model in models)
    for text in texts:
        given, wanted = (stream.to(pair.device) for stream in (text.carved, text.source))
        moments.add_rows(text, small(given), full(wanted))
    for norm in (full, small):
        norm.cpu()
    return moments.summed(pair.reduce)


def _last_norm(family: Family) -> str:
    return next(norm.module for norm in family.norms if "*" not in norm.module)
