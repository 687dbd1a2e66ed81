"""The learned part of pruning: one gate per unit of every prunable axis, and the multipliers of their sizes.

Both modules are read only through ``forward``: sharded strategies gather the parameters for it and for nothing else.
They stay in float32 whatever the model runs in.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from shear_lit.theory import hard_concrete
from shear_lit.theory.constraint import size_penalty, sparsity
from shear_lit.theory.shape import Axis, ModelShape

GateValues = dict[Axis, Float[Tensor, "..."]]
"""Gates in [0, 1] by axis, each of ``ModelShape.gate_shape(axis)``; an axis that is absent keeps all its units."""


class GateState(NamedTuple):
    """What the gates say at one moment."""

    values: GateValues
    """The gates to run the model with."""
    sparsity: dict[Axis, Tensor]
    """Expected fraction of units lost by every row of every axis, with gradient."""


class SizePenalty(NamedTuple):
    """What the multipliers make of the sizes."""

    total: Float[Tensor, ""]
    """Added to the language-modelling loss."""
    multipliers: Float[Tensor, "2 axes"]
    """First and second multiplier of every axis."""


class Gates(nn.Module):
    """One hard-concrete gate per prunable unit of a model of shape ``source``."""

    def __init__(
        self,
        source: ModelShape,
        axes: tuple[Axis, ...],
        *,
        initial_log_alpha: float = hard_concrete.LOG_ALPHA_LIMIT,
    ) -> None:
        super().__init__()
        self.source = source
        self.axes = axes
        for axis in axes:
            start = torch.full(source.gate_shape(axis), initial_log_alpha, dtype=torch.float32)
            self.register_parameter(axis.value, nn.Parameter(start))

    def log_alpha(self) -> dict[Axis, Tensor]:
        """The parameters by axis."""
        return {axis: self.get_parameter(axis.value) for axis in self.axes}

    def forward(self, uniform: GateValues | None = None, target: ModelShape | None = None) -> GateState:
        """Draw the gates from ``uniform`` noise, or evaluate them at ``target``, or (default) as they are now."""
        log_alpha = self.log_alpha()
        lost = {axis: sparsity(hard_concrete.keep_probability(row)) for axis, row in log_alpha.items()}
        if uniform is not None:
            values = {axis: hard_concrete.sample(log_alpha[axis], uniform[axis]) for axis in self.axes}
        else:
            values = deterministic_gates(log_alpha, target)
        return GateState(values, lost)

    @torch.no_grad()
    def start_from(self, log_alpha: Mapping[Axis, Tensor]) -> None:
        """Set the parameters; on a sharded strategy each rank takes its part of the same values."""
        for axis, parameter in self.log_alpha().items():
            values = log_alpha[axis].to(parameter)
            if isinstance(parameter, DTensor):
                values = distribute_tensor(values, parameter.device_mesh, parameter.placements)
            parameter.copy_(values)

    @torch.no_grad()
    def project(self) -> None:
        """Return every log alpha to its limits after an update; one that drifted off would take long to return."""
        for log_alpha in self.log_alpha().values():
            hard_concrete.clamp_(log_alpha)


def deterministic_gates(log_alpha: Mapping[Axis, Tensor], target: ModelShape | None = None) -> GateValues:
    """Gates without noise: exactly ``target`` units in every row, or the expected number as it is now."""
    values = {}
    for axis, rows in log_alpha.items():
        if target is None:
            kept = hard_concrete.expected_kept(rows)
        else:
            kept = torch.full(rows.shape[:-1], target.units(axis), device=rows.device)
        values[axis] = hard_concrete.deterministic(rows, kept)
    return values


class Multipliers(nn.Module):
    """The Lagrange multipliers of the size constraint: two per axis, for the excess and for its square."""

    def __init__(self, axes: tuple[Axis, ...], *, second_start: float = 0.0) -> None:
        super().__init__()
        self.axes = axes
        self.first = nn.Parameter(torch.zeros(len(axes), dtype=torch.float32))
        self.second = nn.Parameter(torch.full((len(axes),), second_start, dtype=torch.float32))

    def forward(self, sparsity: Mapping[Axis, Tensor], target: Mapping[Axis, float]) -> SizePenalty:
        """The size penalty, summed over the axes, and the multipliers that gave it."""
        penalties = [
            size_penalty(sparsity[axis], target[axis], self.first[index], self.second[index])
            for index, axis in enumerate(self.axes)
        ]
        return SizePenalty(torch.stack(penalties).sum(), torch.stack([self.first, self.second]))


def keyed_uniform(source: ModelShape, axes: tuple[Axis, ...], *, key: tuple[int, int, int]) -> GateValues:
    """Noise for one draw of the gates, in (0, 1), on the CPU; a pure function of ``key``.

    ``key`` is (seed, optimizer step, micro-batch within the global batch): the same noise meets the same
    micro-batch however the batch is spread over ranks and accumulation, and after any resume.
    """
    generator = torch.Generator().manual_seed(_mixed(key))
    smallest = 1e-6
    return {
        axis: torch.empty(source.gate_shape(axis)).uniform_(smallest, 1 - smallest, generator=generator)
        for axis in axes
    }


def _mixed(key: tuple[int, ...]) -> int:
    """One 64-bit number for a key, by the finaliser of splitmix64 after each part."""
    mask = (1 << 64) - 1
    state = 0
    for part in key:
        state = (state + part + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state
