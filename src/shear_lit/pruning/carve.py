"""Cut a model at its gates: the kept units of every tensor, with the gate values folded in once."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shear_lit.models.family import Cut, Family, FamilyError, Norm, NormKind, units_along
from shear_lit.pruning.constraints import GateValues
from shear_lit.theory.shape import Axis, ModelShape, ShapeError


@dataclass(frozen=True, kw_only=True)
class KeptUnits:
    """The indices of the units that are kept, in the order of the source."""

    layers: Int[Tensor, "kept_layers"]
    """Blocks of the source; block i of the carved model is the i-th of them."""
    hidden: Int[Tensor, "kept_hidden"]
    """Entries of the residual stream."""
    kv_heads: Int[Tensor, "layers kept_groups"]
    """Key/value heads of every source block."""
    query_heads: Int[Tensor, "layers kept_heads"]
    """Query heads of every source block, numbered within the block."""
    intermediate: Int[Tensor, "layers kept_intermediate"]
    """Feed-forward units of every source block."""

    @property
    def shape(self) -> ModelShape:
        """The shape of what is kept."""
        return ModelShape(
            layers=len(self.layers),
            hidden=len(self.hidden),
            query_heads=self.query_heads.shape[1],
            kv_heads=self.kv_heads.shape[1],
            intermediate=self.intermediate.shape[1],
        )

    def along(self, axis: Axis, block: int | None) -> Tensor:
        """The kept units along one tensor dimension, of ``block`` where the axis has a row per block."""
        units = cast(Tensor, getattr(self, axis.value))
        return units if units.ndim == 1 else units[block]


def kept_units(values: GateValues, source: ModelShape) -> KeptUnits:
    """The units whose gate is not exactly 0.

    Raises:
        ShapeError: rows of one axis keep different numbers of units, so that no stock model has their shape.
    """
    groups = _kept(values, Axis.KV_HEADS, source)
    in_group = _kept(values, Axis.QUERY_HEADS, source)
    # Every group of every block lists its kept heads; then the kept groups are taken.
    heads = in_group + source.queries_per_group * torch.arange(source.kv_heads)[:, None]
    heads = heads.gather(1, groups[:, :, None].expand(-1, -1, in_group.shape[-1]))
    return KeptUnits(
        layers=_kept(values, Axis.LAYERS, source),
        hidden=_kept(values, Axis.HIDDEN, source),
        kv_heads=groups,
        query_heads=heads.flatten(1),
        intermediate=_kept(values, Axis.INTERMEDIATE, source),
    )


def carve(
    tensors: Mapping[str, Tensor],
    family: Family,
    values: GateValues,
    *,
    built_in: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The tensors of the carved model, by their names in it.

    ``tensors`` has every parameter of the source once (a tied head is its embedding). Tensors that carry
    gates come back in the wider of their own dtype and the gates'. ``built_in``: what models are built in, to which
    they round a constant that multiplies the embedding.

    Raises:
        ShapeError: the gates leave no stock shape.
    """
    values = {axis: gates.detach().cpu() for axis, gates in values.items()}
    kept = kept_units(values, family.shape)
    carver = _Carver(family, values, kept, scale_ratio(family, len(kept.hidden), built_in))
    new_index = {int(block): index for index, block in enumerate(kept.layers)}
    carved = {}
    for name, tensor in tensors.items():
        _, block = family.pattern(name)
        if block is None:
            carved[name] = carver.carve(name, tensor)
        elif block in new_index:
            renumbered = name.replace(f"{family.blocks}.{block}.", f"{family.blocks}.{new_index[block]}.", 1)
            carved[renumbered] = carver.carve(name, tensor)
    return carved


def kept_entries(family: Family, kept: KeptUnits, tensor: str, *, dim: int) -> Int[Tensor, "entries"]:
    """The indices of the source's ``tensor`` along ``dim`` that are kept, in the order of the carved one."""
    _, block = family.pattern(tensor)
    return torch.cat([_entries(cut, kept, block) for cut in family.cuts_of(tensor) if cut.dim == dim])


def _entries(cut: Cut, kept: KeptUnits, block: int | None) -> Int[Tensor, "entries"]:
    units = kept.along(cut.axis, block)
    return (cut.offset + units[:, None] * cut.entries + torch.arange(cut.entries)).flatten()


def scale_ratio(family: Family, hidden: int, built_in: torch.dtype = torch.float32) -> float:
    """The constant that multiplies the source's embedding over the one that will multiply the carved model's."""
    if family.embedding_scale is None or hidden == family.shape.hidden:
        return 1.0
    sizes = (family.shape.hidden, hidden)
    before, after = (torch.tensor(family.embedding_scale(size), dtype=built_in).item() for size in sizes)
    return float(before / after)


@dataclass(frozen=True)
class _Carver:
    """Cuts one tensor after another."""

    family: Family
    values: GateValues
    kept: KeptUnits
    scale_ratio: float

    def carve(self, name: str, tensor: Tensor) -> Tensor:
        """The kept units of one tensor, with what it carries folded in."""
        _, block = self.family.pattern(name)
        cuts, tensor = self.family.cuts_of(name), tensor.detach().cpu()
        if not cuts:
            # A clone owns its memory: a view would keep the source alive, and safetensors refuses shared storage.
            return tensor.clone()
        for dim, pieces in itertools.groupby(cuts, key=lambda cut: cut.dim):
            tensor = self._carve_dim(tensor, dim, list(pieces), block, self.family.norm_of(name))
        return tensor.contiguous()

    def _carve_dim(
        self, tensor: Tensor, dim: int, pieces: list[Cut], block: int | None, norm: Norm | None
    ) -> Tensor:
        # Select before multiplying: less work, and dropped units need no value.
        tensor = tensor.index_select(dim, torch.cat([_entries(cut, self.kept, block) for cut in pieces]))
        factors = [self._factor(cut, block) for cut in pieces]
        present = [factor for factor in factors if factor is not None]
        if not present:
            return tensor
        if len(present) < len(pieces):
            raise FamilyError(f"{pieces[0].tensor} carries gates in some of its pieces only: mend the table")
        along = [1] * tensor.ndim
        along[dim] = -1
        factor = torch.cat(present).view(along)
        # The selection is a copy of its own: it is multiplied where it lies, unless it must grow wider.
        tensor = tensor.to(torch.promote_types(tensor.dtype, factor.dtype)).mul_(factor)
        if norm is not None and norm.kind is NormKind.ONE_PLUS_RMS:
            return tensor.add_(factor - 1)
        return tensor

    def _factor(self, cut: Cut, block: int | None) -> Float[Tensor, "entries"] | None:
        """What multiplies the kept entries of one piece."""
        gates = _carried(cut, block, self.family.shape, self.values)
        compensation = self.scale_ratio**cut.compensates
        if gates is None and compensation == 1:
            return None
        units = self.kept.along(cut.axis, block)
        if gates is None:
            numbers = next(iter(self.values.values())).dtype
            return torch.full((len(units) * cut.entries,), compensation, dtype=numbers)
        return (gates[units] * compensation).repeat_interleave(cut.entries)


def _carried(cut: Cut, block: int | None, shape: ModelShape, values: GateValues) -> Tensor | None:
    """The product of the gates that ``cut`` carries, one per unit along its dimension."""
    present = [axis for axis in cut.carries if axis in values]
    if not present:
        return None
    product = torch.ones(units_along(shape, cut.axis), dtype=values[present[0]].dtype)
    for axis in present:
        gates = values[axis] if axis is Axis.HIDDEN else values[axis][block]
        if axis is Axis.KV_HEADS:
            gates = gates[:, None].expand(-1, shape.queries_per_group)
        product = product * (gates if axis is Axis.LAYERS else gates.flatten())
    return product


def _kept(values: GateValues, axis: Axis, source: ModelShape) -> Int[Tensor, "*rows kept"]:
    shape = source.gate_shape(axis)
    if axis not in values:
        return torch.arange(shape[-1]).expand(shape)
    open_gates = values[axis] != 0
    counts = open_gates.sum(-1)
    if counts.min() != counts.max() or counts.min() == 0:
        raise ShapeError(
            f"the gates of axis {axis.value} keep between {int(counts.min())} and {int(counts.max())} units per "
            f"row: a stock model has the same number, at least 1, in every row. Evaluate the gates at a target shape."
        )
    return open_gates.nonzero()[:, -1].view(*shape[:-1], -1)
