"""How much each unit matters by the error that is left when the others take over as well as linear algebra allows.

A writer is what closes attention or a feed-forward layer: it maps what the units put out to the residual stream. When
units go, the least-squares writer of the remaining ones keeps of the old output what they can tell of it. What each
unit's loss would cost then is known in closed form from the second moments of the writer's inputs (optimal brain
surgeon; with many outputs, and groups for heads, as in arXiv:2302.04089, section 3). Units go in rounds, and the cost
of the others is counted anew after each.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shear_lit.models.family import Family
from shear_lit.ranking.importance import Importance, Passage, Reduce
from shear_lit.ranking.magnitude import whole
from shear_lit.theory.shape import Axis, ModelShape

SHARE_OF_A_ROUND = 0.1
"""Of the units that are left, so many go at once; of heads one."""
DAMPING = 0.01
"""Added to the diagonal of the moments, as a fraction of its mean: fewer tokens than units leave it singular."""
MOST_BYTES = 8e9
"""Moments that are kept at a time; a model with more reads the text several times, for some blocks each."""


def by_reconstruction(
    model: nn.Module,
    family: Family,
    text: Iterable[Passage],
    axes: Iterable[Axis],
    *,
    reduce: Reduce | None = None,
) -> Importance:
    """Heads or feed-forward units, or both, in the order in which they go."""
    axes, shape = set(axes), family.shape
    importance = {axis: torch.zeros(shape.gate_shape(axis)) for axis in Axis if axis in axes}
    kinds = [
        kind
        for kind, of in (
            (Axis.QUERY_HEADS, {Axis.QUERY_HEADS, Axis.KV_HEADS}),
            (Axis.INTERMEDIATE, {Axis.INTERMEDIATE}),
        )
        if axes & of
    ]
    writers = {axis: name for axis, name in writers_of(family).items() if axis in kinds}
    widest = max(_entries(family, axis) for axis in writers)
    together = max(1, int(MOST_BYTES / (8.0 * widest**2)))
    for first in range(0, shape.layers, together):
        blocks = range(first, min(first + together, shape.layers))
        moments = _moments(model, family, text, writers, blocks)
        for (axis, block), moment in moments.items():
            moment = moment if reduce is None else reduce(moment)
            name = writers[axis].replace("*", str(block))
            weight = whole(model.get_submodule(name).get_parameter("weight")).detach().cpu().double()
            for of in importance.keys() & ({axis, Axis.KV_HEADS} if axis is Axis.QUERY_HEADS else {axis}):
                costs = removal_costs(moment, weight, entries=moment.shape[0] // _units(shape, of))
                importance[of][block] = costs.float().view(importance[of][block].shape)
    return importance


def writers_of(family: Family) -> dict[Axis, str]:
    """The layer that closes attention (by query heads), and the one that closes a feed-forward layer."""
    return {
        cut.axis: cut.tensor.removesuffix(".weight")
        for cut in family.cuts
        if cut.dim == 1 and cut.axis in (Axis.INTERMEDIATE, Axis.QUERY_HEADS) and cut.carries
    }


def removal_costs(
    moment: Float[Tensor, "inputs inputs"], weight: Float[Tensor, "outputs inputs"], *, entries: int
) -> Float[Tensor, "units"]:
    """What each unit costs when it goes, each of ``entries`` inputs side by side, cheapest first; costs only grow.

    The cost is the squared error that the best writer of the others adds, summed over the tokens that ``moment`` is the
    sum of.
    """
    inputs = moment.shape[0]
    moment = moment + DAMPING * moment.diagonal().mean() * torch.eye(inputs, dtype=moment.dtype)
    costs = torch.zeros(inputs // entries, dtype=moment.dtype)
    left = torch.arange(inputs // entries)
    reached = 0.0
    while len(left):
        at = (left[:, None] * entries + torch.arange(entries)).flatten()
        inverse = torch.linalg.inv(moment[at][:, at])
        refitted = weight @ moment[:, at] @ inverse
        cost = _costs(refitted, inverse, entries)
        going = max(1, int(len(left) * SHARE_OF_A_ROUND)) if entries == 1 else 1
        order = cost.argsort(stable=True)[:going]
        # In a later round a unit may cost less than one that has gone: it still goes later.
        costs[left[order]] = reached + cost[order]
        reached = float(costs[left[order]].max())
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[order] = False
        left = left[stays]
    return costs


def _costs(
    weight: Float[Tensor, "outputs inputs"], inverse: Float[Tensor, "inputs inputs"], entries: int
) -> Float[Tensor, "units"]:
    """Of each unit u: the trace of W_u (H_uu)^-1 W_u^T, with H the inverse of the moments."""
    if entries == 1:
        return weight.square().sum(0) / inverse.diagonal()
    units = weight.shape[1] // entries
    columns = weight.view(-1, units, entries).transpose(0, 1)
    squares = columns.mT @ columns
    own = inverse.view(units, entries, units, entries).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    return torch.linalg.solve(own, squares).diagonal(dim1=1, dim2=2).sum(1)


def _units(shape: ModelShape, axis: Axis) -> int:
    return shape.query_heads if axis is Axis.QUERY_HEADS else shape.units(axis)


def _entries(family: Family, axis: Axis) -> int:
    return _units(family.shape, axis) * (1 if axis is Axis.INTERMEDIATE else family.head_size)


@torch.no_grad()
def _moments(
    model: nn.Module, family: Family, text: Iterable[Passage], writers: dict[Axis, str], blocks: range
) -> dict[tuple[Axis, int], Tensor]:
    """Sums of the outer products of the inputs of the writers of ``blocks``, over the tokens that count."""
    found = {
        (axis, block): torch.zeros(2 * (_entries(family, axis),), dtype=torch.float64)
        for axis in writers
        for block in blocks
    }
    current: list[Passage] = []

    def watch(key: tuple[Axis, int]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            passage = current[0]
            if passage.counts:
                rows = inputs[0].detach()
                rows = rows[0] if passage.counted is None else rows[passage.counted]
                found[key] += (rows.mT.float() @ rows.float()).cpu().double()

        return hook

    with _hooked(
        model, {writers[axis].replace("*", str(block)): watch((axis, block)) for axis, block in found}
    ):
        for passage in text:
            current[:] = [passage]
            own = {name: part for name, part in passage.inputs.items() if name != "labels"}
            model(**own, use_cache=False)
    return found


@contextmanager
def _hooked(model: nn.Module, hooks: dict[str, Callable[..., None]]) -> Iterator[None]:
    handles = [model.get_submodule(name).register_forward_pre_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            cast(Any, handle).remove()
