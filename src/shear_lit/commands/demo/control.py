"""The demo's control: a cut of the same shape whose units are drawn by lot, so that nothing about it is learned."""

from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes

from shear_lit.models.huggingface import read_config, read_model
from shear_lit.models.registry import carved_config, family_of
from shear_lit.models.writing import write_model
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.pruning.gates import GateValues
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import ModelShape, shrinking_axes

KEPT = "kept.shear"
"""The file beside the control that says which units of the source it kept."""


def random_gates(source: ModelShape, target: ModelShape, *, seed: int) -> GateValues:
    """Gates of exactly 1 for as many units of every row as ``target`` keeps, drawn by lot, and 0 for the others."""
    axes = shrinking_axes(source, target)
    gates = {}
    for axis, lot in keyed_uniform(source, axes, key=(seed, 0, 0)).items():
        drawn = lot.topk(target.units(axis), dim=-1).indices
        gates[axis] = torch.zeros_like(lot).scatter_(-1, drawn, 1.0)
    return gates


def write_random_cut(source: str, target: ModelShape, output: Path, *, seed: int) -> None:
    """Cut the model at ``source`` to ``target`` at random units, and write it as learned cuts are written.

    Raises:
        ShapeError: ``target`` cannot be cut from the source.
        DirectoryError: ``output`` is not empty, or its disk is too small.
    """
    config = read_config(source)
    family = family_of(config)
    values = random_gates(family.shape, target, seed=seed)
    model = read_model(source, dtype=torch.float32)
    carved = carve(dict(model.named_parameters()), family, values)
    kept = kept_units(values, family.shape)
    write_model(
        output,
        carved_config(config, target, kept_layers=kept.layers.tolist()),
        carved,
        companions_of=source,
        dtype=torch.float32,
        extra_files={
            KEPT: safetensors_bytes({name: units.clone() for name, units in vars(kept).items()}),
            "README.md": _CARD.format(source=source, shape=target.to_dict(), seed=seed),
        },
    )


_CARD = """# A control, not a model to use

Cut out of `{source}` at random units (seed {seed}) to the shape {shape}; no gate was learned.
What learned gates are worth is the difference between a model pruned with them and this one after the same training.
"""
