"""From gate values to the vectors that the modules of a model multiply by: a list with an entry for every block.

Each function takes the gates and the family's table. An entry is None where nothing is multiplied.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shear_lit.models.family import Cut, Family, Norm
from shear_lit.pruning.constraints import GateValues
from shear_lit.pruning.gated import NormGates, norm_gates
from shear_lit.theory.shape import Axis

Source = Callable[[GateValues, Family], list[Any]]
"""What one kind of module multiplies by, per block."""


def block_outputs(values: GateValues, family: Family) -> list[Tensor | None]:
    """For the rows of what writes to the residual stream, or for the norms after it: hidden times block gates."""
    return _rows(_block_outputs(values, family), family)


def heads(values: GateValues, family: Family) -> list[Tensor | None]:
    """For the columns of every output projection: one value per entry of every query head."""
    gates = _query_heads(values, family)
    return _rows(None if gates is None else gates.repeat_interleave(family.head_size, dim=1), family)


def intermediate(values: GateValues, family: Family) -> list[Tensor | None]:
    """For the columns of what closes a feed-forward layer."""
    return _rows(values.get(Axis.INTERMEDIATE), family)


def stream_norms(values: GateValues, family: Family) -> list[NormGates | None]:
    """For the norms over the residual stream, and for the embedding: the same in every block."""
    hidden = values.get(Axis.HIDDEN)
    gates = None if hidden is None else norm_gates(hidden, hidden != 0)
    return [gates] * family.shape.layers


def output_norms(values: GateValues, family: Family) -> list[NormGates | None]:
    """For the norms over what a block adds to the residual stream."""
    outputs, hidden = _block_outputs(values, family), values.get(Axis.HIDDEN)
    if outputs is None:
        return [None] * family.shape.layers
    is_open = torch.ones_like(outputs, dtype=torch.bool) if hidden is None else hidden != 0
    return _each(norm_gates(outputs, is_open.expand_as(outputs)))


def query_norms(values: GateValues, family: Family) -> list[NormGates | None]:
    """For the norms over all queries, which carry no gates."""
    return _head_norms(_query_heads(values, family), family)


def key_norms(values: GateValues, family: Family) -> list[NormGates | None]:
    """For the norms over all keys, which carry no gates."""
    return _head_norms(values.get(Axis.KV_HEADS), family)


def open_hidden(values: GateValues, family: Family) -> list[Tensor | None]:
    """For the rows of what a norm over hidden units reads: 1 where the unit is kept, 0 where it is not."""
    return [_kept_only(gates) for gates in stream_norms(values, family)]


def open_query_heads(values: GateValues, family: Family) -> list[Tensor | None]:
    """For the rows of what a norm over all queries reads."""
    return [_kept_only(gates) for gates in query_norms(values, family)]


def open_kv_heads(values: GateValues, family: Family) -> list[Tensor | None]:
    """For the rows of what a norm over all keys reads."""
    return [_kept_only(gates) for gates in key_norms(values, family)]


_CARRIED: dict[tuple[Axis, ...], Source] = {
    (Axis.HIDDEN, Axis.LAYERS): block_outputs,
    (Axis.KV_HEADS, Axis.QUERY_HEADS): heads,
    (Axis.INTERMEDIATE,): intermediate,
}
_READ_BY_NORM: dict[Axis, tuple[Source, Source]] = {
    Axis.HIDDEN: (output_norms, open_hidden),
    Axis.QUERY_HEADS: (query_norms, open_query_heads),
    Axis.KV_HEADS: (key_norms, open_kv_heads),
}


def source_of_cut(cut: Cut) -> Source:
    """What a linear layer multiplies by along the dimension of ``cut``, which carries gates."""
    return _CARRIED[cut.carries]


def source_of_norm(norm: Norm) -> Source:
    """What a norm works with."""
    return stream_norms if norm.after is None else _READ_BY_NORM[norm.over][0]


def source_before_norm(norm: Norm) -> Source:
    """What the linear layer that ``norm`` comes after multiplies its rows by: lost units must reach it as 0."""
    return _READ_BY_NORM[norm.over][1]


def _rows(values: Tensor | None, family: Family) -> list[Tensor | None]:
    return [None] * family.shape.layers if values is None else list(values.unbind(0))


def _each(gates: NormGates) -> list[NormGates | None]:
    return [NormGates(*block) for block in zip(*(part.unbind(0) for part in gates), strict=True)]


def _kept_only(gates: NormGates | None) -> Tensor | None:
    return None if gates is None else gates.is_open.to(gates.values.dtype)


def _block_outputs(values: GateValues, family: Family) -> Float[Tensor, "layers hidden"] | None:
    shape = family.shape
    hidden, blocks = values.get(Axis.HIDDEN), values.get(Axis.LAYERS)
    if blocks is None:
        return None if hidden is None else hidden.expand(shape.layers, -1)
    per_block = blocks[:, None].expand(-1, shape.hidden)
    return per_block if hidden is None else per_block * hidden


def _query_heads(values: GateValues, family: Family) -> Float[Tensor, "layers query_heads"] | None:
    """The gates of every query head: those of its group times its own."""
    groups, own = values.get(Axis.KV_HEADS), values.get(Axis.QUERY_HEADS)
    if groups is None and own is None:
        return None
    shape = family.shape
    per_head = torch.ones((), device=next(iter(values.values())).device)
    if groups is not None:
        per_head = per_head * groups[:, :, None]
    if own is not None:
        per_head = per_head * own
    return per_head.expand(shape.layers, shape.kv_heads, shape.queries_per_group).flatten(1)


def _head_norms(gates: Float[Tensor, "layers heads"] | None, family: Family) -> list[NormGates | None]:
    if gates is None:
        return [None] * family.shape.layers
    is_open: Bool[Tensor, "layers entries"] = (gates != 0).repeat_interleave(family.head_size, dim=1)
    return _each(norm_gates(is_open.to(gates.dtype), is_open))
