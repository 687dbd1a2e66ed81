"""The learned part of pruning: one gate per unit of every prunable axis, and the multipliers of their sizes.

Both modules are read only through ``forward``: sharded strategies gather the parameters for it and for nothing else.
They stay in float32 whatever the model runs in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from shear_lit.theory import exact_size, hard_concrete
from shear_lit.theory.constraint import size_penalty, sparsity
from shear_lit.theory.shape import Axis, ModelShape

GateValues = dict[Axis, Float[Tensor, "..."]]
"""Gates in [0, 1] by axis, each of ``ModelShape.gate_shape(axis)``; an axis that is absent keeps all its units."""


@dataclass(frozen=True, kw_only=True)
class ExactSize:
    """What gates of an exact expected size are held to at one moment of a run."""

    kept: Mapping[Axis, float]
    """Units that each row of an axis keeps in expectation."""
    sharpness: float
    """What the parameters are multiplied by."""
    noise: float
    """What the noise of a draw is multiplied by."""

    def log_alpha(self, axis: Axis, parameter: Tensor, kept: float) -> Tensor:
        """The log alpha at ``kept`` units a row."""
        return exact_size.shifted(parameter, float(kept), sharpness=self.sharpness, noise=self.noise)

    def shifts(self, parameters: Mapping[Axis, Tensor]) -> dict[Axis, Tensor]:
        """What brings every row to its size of this moment."""
        kept = [self.kept[axis] for axis in parameters]
        found = exact_size.shifts([*parameters.values()], kept, sharpness=self.sharpness, noise=self.noise)
        return dict(zip(parameters, found, strict=True))

    def log_alphas(
        self, parameters: Mapping[Axis, Tensor], shifts: Mapping[Axis, Tensor] | None = None
    ) -> dict[Axis, Tensor]:
        """The log alpha of every axis at its size of this moment; by ``shifts``, where they are known."""
        shifts = self.shifts(parameters) if shifts is None else shifts
        return {
            axis: exact_size.shifted(
                rows, self.kept[axis], sharpness=self.sharpness, noise=self.noise, tau=shifts[axis]
            )
            for axis, rows in parameters.items()
        }

    def to_entry(self) -> dict[str, Any]:
        """The numbers by name, for files."""
        kept = {axis.value: units for axis, units in self.kept.items()}
        return {"kept": kept, "sharpness": self.sharpness, "noise": self.noise}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "ExactSize":
        """What ``to_entry`` gave."""
        kept = {Axis(axis): float(units) for axis, units in entry["kept"].items()}
        return cls(kept=kept, sharpness=float(entry["sharpness"]), noise=float(entry["noise"]))


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
        self._moment: tuple[ExactSize, dict[Axis, Tensor]] | None = None
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
        exact: ExactSize | None = None,
    ) -> GateState:
        """Draw the gates from ``uniform`` noise, or evaluate them at ``target``, or (default) as they are now.

        ``exact`` holds every row at its size; without it the gates stand where their parameters say. The same object
        stands for one moment, in which no parameter moves: the shifts of all its draws are found once.
        """
        log_alpha = self.log_alpha()
        if exact is not None and uniform is not None:
            if self._moment is None or self._moment[0] is not exact:
                self._moment = exact, exact.shifts(log_alpha)
            shifted = exact.log_alphas(log_alpha, self._moment[1])
            chances = {
                axis: exact_size.keep_probability(rows, noise=exact.noise) for axis, rows in shifted.items()
            }
            values = {
                axis: exact_size.sample(rows, uniform[axis], noise=exact.noise)
                for axis, rows in shifted.items()
            }
        else:
            chances = keep_probabilities(log_alpha, exact)
            values = deterministic_gates(log_alpha, target, exact)
            if uniform is not None:
                values = {axis: hard_concrete.sample(rows, uniform[axis]) for axis, rows in log_alpha.items()}
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


def keep_probabilities(
    log_alpha: Mapping[Axis, Tensor], exact: ExactSize | None = None
) -> dict[Axis, Tensor]:
    """P(gate > 0) of every unit by axis."""
    if exact is None:
        return {axis: hard_concrete.keep_probability(rows) for axis, rows in log_alpha.items()}
    shifted = exact.log_alphas(log_alpha)
    return {axis: exact_size.keep_probability(rows, noise=exact.noise) for axis, rows in shifted.items()}


def deterministic_gates(
    log_alpha: Mapping[Axis, Tensor],
    target: ModelShape | None = None,
    exact: ExactSize | None = None,
    *,
    blocks: tuple[int, ...] | None = None,
) -> GateValues:
    """Gates without noise: exactly ``target`` units in every row, or the expected number as it is now.

    Gates of an exact size are shifted to the very number that is kept. ``blocks``: the blocks to keep, where they are
    not to be those with the largest gates.
    """
    values = _most_open(log_alpha, target, exact)
    if blocks is not None and Axis.LAYERS in log_alpha:
        assert target is not None
        values[Axis.LAYERS] = _only(blocks, log_alpha[Axis.LAYERS], target, exact)
    return values


def _only(blocks: tuple[int, ...], rows: Tensor, target: ModelShape, exact: ExactSize | None) -> Tensor:
    """The gates of ``blocks`` as they stand at the target's size, however small, and 0 for all others."""
    everything = torch.tensor(len(rows), device=rows.device)
    if exact is None:
        standing = hard_concrete.deterministic(rows, everything)
    else:
        shifted = exact.log_alpha(Axis.LAYERS, rows, float(target.layers))
        standing = exact_size.deterministic(shifted, everything)
    kept = torch.zeros_like(standing)
    kept[list(blocks)] = standing[list(blocks)].clamp(min=torch.finfo(standing.dtype).tiny)
    return kept


def _most_open(
    log_alpha: Mapping[Axis, Tensor], target: ModelShape | None, exact: ExactSize | None
) -> GateValues:
    values = {}
    for axis, rows in log_alpha.items():
        if exact is not None:
            units = max(1, round(exact.kept[axis])) if target is None else target.units(axis)
            kept = torch.full(rows.shape[:-1], units, device=rows.device)
            values[axis] = exact_size.deterministic(exact.log_alpha(axis, rows, float(units)), kept)
            continue
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
