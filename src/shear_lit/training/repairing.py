"""Cuts of stage 1, repaired in the weights of the whole model: that of step 0, or those of stages of the fall."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PretrainedConfig

from shear_lit.evaluation.repair_text import RepairText
from shear_lit.models.choices import RepairParts
from shear_lit.models.family import Family, NormKind
from shear_lit.models.huggingface import build_model, read_model, source_fingerprint
from shear_lit.models.registry import carved_config, family_of
from shear_lit.models.source_files import SourceError
from shear_lit.pruning.carve import KeptUnits, carve, kept_entries, kept_units, scale_ratio
from shear_lit.pruning.constraints import GateValues
from shear_lit.pruning.repair import Refitted, repair
from shear_lit.ranking.importance import Reduce
from shear_lit.ranking.magnitude import whole


@torch.no_grad()
def repair_in_place(
    model: nn.Module,
    config: PretrainedConfig,
    values: GateValues,
    text: RepairText,
    *,
    parts: RepairParts,
    device: torch.device,
    reduce: Reduce | None,
    source: Mapping[str, Tensor] | None = None,
) -> list[Refitted]:
    """Refit those weights of a whole model that gates of 0 and 1 leave, and no others; every process takes part.

    Without ``source``, the model is its own source: it is what it was read as. Each process holds a copy of it, of the
    cut, and of the source where that is another, on the CPU.
    """
    family = family_of(config)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # the outermost is left whole by the pass before, and what is written to that is lost
    tensors = {name: whole(parameter).detach().cpu() for name, parameter in model.named_parameters()}
    kept = kept_units(values, family.shape)
    small_config = carved_config(config, kept.shape, kept_layers=kept.layers.tolist())
    dense = build_model(config, tensors if source is None else source, dtype=torch.float32).eval()
    carved = build_model(small_config, carve(tensors, family, values), dtype=torch.float32).eval()
    found = repair(
        dense,
        carved,
        family,
        family_of(small_config),
        kept,
        text.passages(dense),
        parts=parts,
        device=device,
        reduce=reduce,
    )
    parameters, repaired = dict(model.named_parameters()), dict(carved.named_parameters())
    for name in _refitted(found, repaired):
        _, block = family.pattern(name)
        own = name if block is None else name.replace(f".{block}.", f".{int(kept.layers[block])}.", 1)
        _put_back(parameters[own], tensors[own], repaired[name], family, kept, own)
    return found


def source_tensors(source: str, fingerprint: str) -> dict[str, Tensor]:
    """The weights of the model that a run started from, read again.

    Raises:
        SourceError: it is gone, or is another than it was.
    """
    if source_fingerprint(source) != fingerprint:
        raise SourceError(
            f"{source!r} was changed since the run began, and the cuts of its stages are repaired towards what it was. "
            f"Put back the model that the run began with.",
            key="model.source",
        )
    return dict(read_model(source, dtype=torch.float32).named_parameters())


def _refitted(found: list[Refitted], repaired: dict[str, nn.Parameter]) -> list[str]:
    """Their names in the carved model, biases included."""
    weights = [item.tensor for item in found if item.refitted]
    biases = [name.removesuffix("weight") + "bias" for name in weights]
    return [*weights, *(name for name in biases if name in repaired)]


def _uncompensated(repaired: Tensor, family: Family, kept: KeptUnits, name: str) -> Tensor:
    """A tensor of the cut without what makes up for the constant that multiplies the cut's embedding."""
    powers = {cut.compensates for cut in family.cuts_of(name)}
    factor = scale_ratio(family, len(kept.hidden)) ** -max(powers, key=abs)
    norm = family.norm_of(name)
    extra = 1.0 if norm is not None and norm.kind is NormKind.ONE_PLUS_RMS else 0.0
    return repaired.detach() if factor == 1 else (repaired.detach() + extra) * factor - extra


def _put_back(
    parameter: Tensor, before: Tensor, repaired: Tensor, family: Family, kept: KeptUnits, name: str
) -> None:
    """Give the kept entries of ``parameter``, which may lie on several processes, their repaired numbers."""
    cut = {cut.dim for cut in family.cuts_of(name)}
    entries = [
        kept_entries(family, kept, name, dim=dim) if dim in cut else torch.arange(size)
        for dim, size in enumerate(before.shape)
    ]
    after = before.clone()
    after[torch.meshgrid(*entries, indexing="ij")] = _uncompensated(repaired, family, kept, name)
    if isinstance(parameter, DTensor):
        # Every process has the whole tensor, and takes its own part.
        mesh, placements = parameter.device_mesh, parameter.placements
        spread = distribute_tensor(after.to(parameter.device), mesh, placements, src_data_rank=None)
        parameter.to_local().copy_(spread.to_local())
    else:
        parameter.copy_(after)
