"""What gates leave on disk, readable without this package: their numbers, and which units of the source are kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shear_lit.pruning.carve import KeptUnits, kept_units
from shear_lit.pruning.constraints import LAGRANGIAN, GateValues, SizeConstraint
from shear_lit.ranking.scores import (
    Origin,
    Scores,
    ScoresError,
    read_scores_and_more,
    score_tensors,
    scores_and_more,
)
from shear_lit.theory.shape import Axis, ModelShape

GATES, KEPT = "gates.shear", "gates.json"
"""Names of the two files beside a model. Programs take every file whose name ends as those of weights do for weights;
so the first, although it is a safetensors file, is not called one."""
GATES_BEFORE = "gates.safetensors"
"""Its name in exports of version 0.1."""


def gates_in(directory: Path) -> Path:
    """The file of gates in the directory of an export, of any version."""
    before = directory / GATES_BEFORE
    return before if before.is_file() and not (directory / GATES).is_file() else directory / GATES


def gates_file(
    log_alpha: Mapping[Axis, Tensor],
    origin: Origin,
    *,
    constraint: SizeConstraint = LAGRANGIAN,
    values: GateValues | None = None,
) -> bytes:
    """A safetensors file of learned gates, which ``read_scores`` reads too.

    ``log_alpha.<axis>`` are the parameters, ``probability.<axis>`` what they mean, and where ``values`` are the gates
    of a cut, ``gate.<axis>`` those and ``kept.<axis>`` the indices of the source's units that are not 0.
    """
    tensors = {f"log_alpha.{axis.value}": rows.detach().clone() for axis, rows in log_alpha.items()}
    for axis, rows in constraint.chances(log_alpha).items():
        tensors[f"probability.{axis.value}"] = rows.detach().contiguous()
    if values is not None:
        tensors |= _cut_tensors(values, origin)
    return scores_and_more(tensors, origin)


def ranked_gates_file(scores: Scores, values: GateValues) -> bytes:
    """The same of a cut by scores: ``score.<axis>`` instead of ``log_alpha.<axis>`` and ``probability.<axis>``."""
    tensors = score_tensors(scores.importance) | _cut_tensors(values, scores.origin)
    return scores_and_more(tensors, scores.origin)


def read_kept(file: str) -> KeptUnits | None:
    """The units that a file of gates says are kept; None if nothing was cut at them.

    Raises:
        ScoresError: it cannot be read, or they are no units of its source.
    """
    scores, tensors = read_scores_and_more(file)
    kept = {axis: tensors.get(f"kept.{axis.value}") for axis in Axis}
    if any(units is None for units in kept.values()):
        return None
    source = scores.origin.source_shape
    found = {axis.value: units for axis, units in kept.items() if units is not None}
    if not all(_are_units(found[axis.value], source, axis) for axis in Axis):
        raise ScoresError(
            f"{file!r} keeps units that its source does not have. Write it again with `shear-lit export`.",
            key="gates",
        )
    return KeptUnits(**found)


def _are_units(kept: Tensor, source: ModelShape, axis: Axis) -> bool:
    """Whether the indices are of units of ``axis``, in ascending order, in as many rows as it has."""
    rows = () if axis in (Axis.LAYERS, Axis.HIDDEN) else (source.layers,)
    units = source.query_heads if axis is Axis.QUERY_HEADS else source.units(axis)
    fits = kept.dtype == torch.int64 and kept.ndim == len(rows) + 1 and tuple(kept.shape[:-1]) == rows
    return fits and bool((kept >= 0).all() and (kept < units).all() and (kept.diff(dim=-1) > 0).all())


def _cut_tensors(values: GateValues, origin: Origin) -> dict[str, Tensor]:
    kept = kept_units(values, origin.source_shape)
    tensors = {f"kept.{axis.value}": getattr(kept, axis.value).clone() for axis in Axis}
    return tensors | {f"gate.{axis.value}": rows.detach().contiguous() for axis, rows in values.items()}


def kept_file(
    values: GateValues,
    origin: Origin,
    log_alpha: Mapping[Axis, Tensor] | None = None,
    constraint: SizeConstraint = LAGRANGIAN,
) -> str:
    """A JSON of the same cut: the source, the units that are kept, and the block that each layer was.

    Rows of units inside blocks are listed for the kept layers alone, in the order of the carved model. Probabilities
    are those of the layers; all others are in ``gates_file``.
    """
    kept = kept_units(values, origin.source_shape)
    layers = kept.layers.tolist()
    facts: dict[str, Any] = {
        **origin.to_entry(),
        "shape": kept.shape.to_dict(),
        "layer_map": {str(new): old for new, old in enumerate(layers)},
        "kept": {
            "layers": layers,
            "hidden": kept.hidden.tolist(),
            **{
                axis.value: getattr(kept, axis.value)[kept.layers].tolist()
                for axis in (Axis.KV_HEADS, Axis.QUERY_HEADS, Axis.INTERMEDIATE)
            },
        },
    }
    if log_alpha is not None:
        found = constraint.chances(log_alpha)
        facts["probability"] = {
            axis.value: {
                "mean": float(rows.mean()),
                "lowest": float(rows.min()),
                "highest": float(rows.max()),
            }
            for axis, rows in found.items()
        }
        if Axis.LAYERS in found:
            facts["probability"]["layers"]["each"] = [round(p, 6) for p in found[Axis.LAYERS].tolist()]
    return json.dumps(facts) + "\n"
