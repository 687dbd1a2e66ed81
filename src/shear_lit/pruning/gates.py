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

from shear_lit.pruning.constraints import LAGRANGIAN, GateValues, Rows, SizeConstraint
from shear_lit.theory import hard_concrete
from shear_lit.theory.constraint import size_penalty, sparsity
from shear_lit.theory.shape import Axis, ModelShape


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
        self._moment: tuple[SizeConstraint, Rows | None] | None = None
        for axis in axes:
            start = torch.full(source.gate_shape(axis), initial_log_alpha, dtype=torch.float32)
            self.register_parameter(axis.value, nn.Parameter(start))

    def log_alpha(self) -> dict[Axis, Tensor]:
        """The parameters by axis."""
        return {axis: self.get_parameter(axis.value) for axis in self.axes}

    def forward(
        self,
        uniform: GateValues | None = None,
        target: ModelShape | None = None,
        constraint: SizeConstraint = LAGRANGIAN,
    ) -> GateState:
        """Draw the gates from ``uniform`` noise, or evaluate them at ``target``, or (default) as they are now.

        With both, they are those of the cut to ``target``, and their gradients those of the draw.
        The same ``constraint`` object stands for one moment, in which no parameter moves: what all its draws need is
        found once.
        """
        log_alpha = self.log_alpha()
        if uniform is None:
            values, shifts = constraint.standing(log_alpha, target), None
        else:
            if self._moment is None or self._moment[0] is not constraint:
                self._moment = constraint, constraint.shifts(log_alpha)
            shifts = self._moment[1]
            values = constraint.drawn(log_alpha, uniform, shifts)
            if target is not None:
                with torch.no_grad():
                    cut = constraint.standing(log_alpha, target, shifts=shifts)
                values = {axis: hard_concrete.straight_through(cut[axis], values[axis]) for axis in self.axes}
        chances = constraint.chances(log_alpha, shifts)
        return GateState(values, {axis: sparsity(rows) for axis, rows in chances.items()})

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
