"""The min-max game of stage 1: gates that are drawn and put in force, multipliers, and the schedule of the sizes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shear_lit.pruning.attach import AttachedGates
from shear_lit.pruning.constraints import LAGRANGIAN, Exact, SizeConstraint
from shear_lit.pruning.gates import Gates, GateState, Multipliers, SizePenalty
from shear_lit.pruning.settings import Pruning
from shear_lit.theory.constraint import scheduled_sparsity
from shear_lit.theory.exact_size import sharpness_at
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis, ModelShape


@dataclass(frozen=True)
class Schedule:
    """What is asked of the sizes at each optimizer step."""

    pruning: Pruning
    source: ModelShape
    axes: tuple[Axis, ...]
    """Those that have gates."""
    total_steps: int
    """Optimizer steps of the run."""

    def sparsity(self, step: int) -> dict[Axis, float]:
        """The fraction of units that every axis is asked to lose."""
        return {
            axis: scheduled_sparsity(
                step,
                start=self.pruning.start_sparsity_of(axis),
                target=1 - self.pruning.shape.units(axis) / self.source.units(axis),
                warmup_steps=self.pruning.sparsity_warmup_steps,
            )
            for axis in self.axes
        }

    def constraint(self, step: int) -> SizeConstraint:
        """How sizes are held."""
        if self.pruning.constraint != "exact":
            return LAGRANGIAN
        settings = self.pruning.exact
        progress = step / (settings.settling_fraction * max(1, self.total_steps))
        return Exact(
            kept={axis: (1 - lost) * self.source.units(axis) for axis, lost in self.sparsity(step).items()},
            sharpness=sharpness_at(progress, start=settings.start_sharpness, final=settings.final_sharpness),
            noise=settings.noise,
        )


@dataclass
class Game:
    """The gates of a live model, and what holds them."""

    gates: Gates
    multipliers: Multipliers | None
    attached: AttachedGates
    seed: int
    _moment: tuple[int, SizeConstraint] | None = field(default=None, init=False)
    """The optimizer step that the last draw was of, and how sizes were held."""

    def draw(self, schedule: Schedule, step: int, micro_batch: int) -> GateState:
        """Draw this micro-batch's gates and put them in force: they stay so during backward."""
        noise = keyed_uniform(self.gates.source, self.gates.axes, key=(self.seed, step, micro_batch))
        device = next(self.gates.parameters()).device
        if self._moment is None or self._moment[0] != step:
            self._moment = step, schedule.constraint(step)
        uniform = {axis: values.to(device) for axis, values in noise.items()}
        state: GateState = self.gates(uniform, constraint=self._moment[1])
        self.attached.set(state.values)
        return state

    def stand(self, constraint: SizeConstraint) -> None:
        """Put the gates in force as they are now, without noise."""
        self.attached.set(self.gates(constraint=constraint).values)

    def penalty(self, state: GateState, wanted: dict[Axis, float]) -> SizePenalty | None:
        """What the multipliers make of the sizes, where there are any."""
        return None if self.multipliers is None else self.multipliers(state.sparsity, wanted)

    def expected_sizes(self, state: GateState) -> Tensor:
        """Expected units of a row of every axis, averaged over rows."""
        source = self.gates.source
        kept = [1 - state.sparsity[axis].detach().mean() for axis in self.gates.axes]
        return torch.stack(
            [share * source.units(axis) for axis, share in zip(self.gates.axes, kept, strict=True)]
        )
