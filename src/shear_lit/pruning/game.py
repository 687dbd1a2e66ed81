"""The min-max game of stage 1: gates that are drawn and put in force, multipliers, and the schedule of the sizes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shear_lit.pruning.attach import AttachedGates
from shear_lit.pruning.constraints import LAGRANGIAN, Exact, GateValues, SizeConstraint
from shear_lit.pruning.gates import Gates, GateState, Multipliers, SizePenalty
from shear_lit.pruning.settings import Pruning
from shear_lit.pruning.stages import whole_units
from shear_lit.theory.constraint import scheduled_sparsity, stage_of
from shear_lit.theory.exact_size import sharpness_at
from shear_lit.theory.hard_concrete import straight_through
from shear_lit.theory.noise import keyed_uniform, no_noise
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
    stages: tuple[ModelShape, ...] = ()
    """The shapes at which sizes rest on their way, where they fall in stages."""

    def sparsity(self, step: int) -> dict[Axis, float]:
        """The fraction of units that every axis is asked to lose."""
        if not self.pruning.fall.by_whole_units:
            return self._line(step)
        return {axis: 1 - kept / self.source.units(axis) for axis, kept in self.kept(step).items()}

    def kept(self, step: int) -> dict[Axis, float]:
        """The units that every row of an axis is asked to keep."""
        if stage := self.stage(step):
            return {axis: float(self.stages[stage - 1].units(axis)) for axis in self.axes}
        line = self._line(0 if self.stages else step)
        kept = {axis: (1 - lost) * self.source.units(axis) for axis, lost in line.items()}
        if not self.pruning.fall.by_whole_units:
            return kept
        return {axis: float(whole_units(units)) for axis, units in kept.items()}

    def stage(self, step: int) -> int:
        """How many stages of the fall have begun."""
        if not self.stages:
            return 0
        return stage_of(step, stages=len(self.stages), warmup_steps=self.pruning.sparsity_warmup_steps)

    def gates_learn(self, step: int) -> bool:
        """Whether gates have a gradient."""
        return self.pruning.fall.order == "learned" or step >= self.pruning.sparsity_warmup_steps

    def is_noisy(self, step: int) -> bool:
        """Whether draws have noise."""
        return step < self.pruning.draws.noise_until_fraction * self.total_steps

    def is_hard(self, step: int) -> bool:
        """Whether the gates in force are those of the cut."""
        return step >= self.pruning.draws.hard_from_fraction * self.total_steps

    def _line(self, step: int) -> dict[Axis, float]:
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
            kept=self.kept(step),
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
    _drawn: GateValues = field(default_factory=dict, init=False)
    """The gates of the last draw."""
    _in_force: GateValues = field(default_factory=dict, init=False)
    """The same as the model has them: where they were drawn apart, cut off from their parameters."""

    def draw(self, schedule: Schedule, step: int, micro_batch: int, *, apart: bool = False) -> GateState:
        """Draw this micro-batch's gates and put them in force: they stay so during backward.

        ``apart``: what the model computes under them has no gradient in their parameters, which learn from what is
        ``passed_on`` alone.
        """
        device = next(self.gates.parameters()).device
        if self._moment is None or self._moment[0] != step:
            self._moment = step, schedule.constraint(step)
        source, axes = self.gates.source, self.gates.axes
        noise = (
            keyed_uniform(source, axes, key=(self.seed, step, micro_batch))
            if schedule.is_noisy(step)
            else no_noise(source, axes)
        )
        uniform = {axis: values.to(device) for axis, values in noise.items()}
        target = schedule.pruning.shape if schedule.is_hard(step) else None
        state: GateState = self.gates(uniform, target, constraint=self._moment[1])
        if not schedule.gates_learn(step):
            state = state._replace(values={axis: held(values) for axis, values in state.values.items()})
        self._drawn = self._in_force = state.values
        if apart:
            self._in_force = {axis: values.detach().requires_grad_() for axis, values in state.values.items()}
        self.attached.set(self._in_force)
        return state

    def passed_on(self, objective: Tensor) -> Tensor:
        """0, with the gradient that ``objective`` has in the gates of the last draw, which was ``apart``.

        It passes back through the model here, down to the gates and no weight; the one backward of the step, which
        reducers and shards wait for, adds that gradient to those of the weights, of another objective.
        """
        with torch.autocast(objective.device.type, enabled=False):
            found = torch.autograd.grad(objective, [*self._in_force.values()], retain_graph=True)
        drawn = zip(self._drawn.values(), found, strict=True)
        stand_in = torch.stack([(values * slope).sum() for values, slope in drawn]).sum()
        return straight_through(torch.zeros_like(stand_in), stand_in)

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


def held(values: Tensor) -> Tensor:
    """Gates of which the gradient is 0: there is one, for reducers that wait for it."""
    return straight_through(values, 0 * values)
