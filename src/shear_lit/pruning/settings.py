"""What a user says about pruning."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from transformers import PretrainedConfig

from shear_lit.models.choices import (
    GENERATED_FRACTION,
    REPAIR_TOKENS,
    AxisName,
    Criterion,
    PresetName,
    RepairParts,
    WrittenAs,
)
from shear_lit.models.family import Family
from shear_lit.models.targets import TargetRequest
from shear_lit.pruning.gate_settings import Draws, ExactGates, Fall, Objective
from shear_lit.pruning.starts import ORDERED_SHARE
from shear_lit.ranges import (
    Count,
    CountFrom0,
    Fraction,
    NumberFrom0,
    OpenFraction,
    PositiveNumber,
    as_plain_numbers,
)
from shear_lit.ranking.criteria import criteria_by_axis
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT, threshold
from shear_lit.theory.shape import Axis, ModelShape, ShapeError, TargetShape, shrinking_axes


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """The repair, in closed form, of the cut that stage 1 starts from, or of those on the way to its target."""

    tokens: Count = REPAIR_TOKENS
    """Training tokens to repair on: whole sequences, as many of each domain."""
    generated_fraction: Fraction = GENERATED_FRACTION
    """Tokens beside them that the source generates, as a fraction of them: a repair keeps what no domain has."""
    parts: RepairParts = "embedding"
    """What is refitted: `writers`, what adds to the residual stream; `readers`, what reads it as well; `embedding`,
    the embedding of a tied head, too; `norms`, and the last norm before it."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """The target of stage 1 and the way there (arXiv:2310.06694, section 2.1)."""

    target: TargetShape | None = None
    """Shape of the model that remains: the axes that change. Give it, or one of the three ways below to find it."""
    target_parameters: PositiveNumber | None = None
    """Parameters of the model that remains (1.3e9): the best-balanced shape of that size is proposed and written into
    the run's configuration."""
    target_flops_fraction: OpenFraction | None = None
    """Share of the source's multiplications per token, in (0, 1), instead: the best-balanced shape of that cost."""
    target_preset: PresetName | None = None
    """A published shape by name, instead."""
    write_as: WrittenAs = "source"
    """Model type to cut to: `source`, that of the source, or `mistral` for a llama model, which computes the same and
    takes any hidden size."""
    keep_layer_period: bool = False
    """Keep blocks whose kinds alternate as the family's do (gemma2, gemma3, smollm3): some programs take that for
    granted, and compute something else where it is not so. It binds at the cut, not in training."""
    axes: tuple[AxisName, ...] = ("layers", "hidden", "kv_heads", "query_heads", "intermediate")
    """Axes that may lose units. One on which source and target agree gets no gates."""
    constraint: Literal["lagrangian", "exact"] = "lagrangian"
    """How sizes are held: `lagrangian`, by multipliers that learn (the paper), or `exact`, by one shift of every row's
    gates (deviation D13)."""
    exact: ExactGates = field(default_factory=ExactGates)
    """Settings of ``constraint: exact``."""
    fall: Fall = field(default_factory=Fall)
    """How sizes fall to the target."""
    draws: Draws = field(default_factory=Draws)
    """How gates are drawn towards the end."""
    objective: Objective = "same"
    """What gates learn from besides their sizes: `same`, what the weights learn from; `language`, cross-entropy alone;
    or `distillation`, the divergence from the teacher alone. Another one costs a second backward pass."""
    start_sparsity: float | dict[str, float] = 0.0
    """Fraction of units that every axis is asked to lose at step 0: one number, or a mapping from axes to theirs
    (axes that it does not name start at 0)."""
    sparsity_warmup_steps: CountFrom0 = 640
    """Optimizer steps over which the asked-for sparsity rises, linearly, to the target's."""
    initial_log_alpha: float = LOG_ALPHA_LIMIT
    """Where every gate starts; the default is the top of its range, all units kept (deviation D4)."""
    initial_gap: NumberFrom0 = 0.0
    """How far below the top the units beyond the target's number begin, in the order of their importance.
    0 starts all gates equal, as the paper does; 9.2 starts from the ranked cut, which training may
    revise (deviation D4). With ``constraint: exact`` gates always start in order, and this is the distance between
    the last unit that the target keeps and the first that it does not."""
    initial_scores: str | None = None
    """File of `shear-lit rank` that orders the gates; null measures ``ranking`` on a little training text."""
    ranking: Criterion | dict[AxisName, Criterion] = "default"
    """What orders the gates where they start in an order and no file gives it: as ``criterion`` of `shear-lit rank`."""
    calibration_sequences: Count = 16
    """Training sequences of each domain on which importance is measured, where gates start in its order."""
    repair: RepairSettings | None = None
    """Refit the cut that the run starts from towards the source, once, before the first step; or, where
    ``fall.stages`` is more than 0, the cut of each stage; null does not."""
    second_multiplier_start: NumberFrom0 = 0.0
    """Where the multipliers of the squared excess start. 0 is the paper's; a few hundred keeps the sizes on their
    schedule from the first step, which short runs need (deviation D12)."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)
        self._check_start_sparsity()
        if self.sparsity_warmup_steps < 0:
            raise ShapeError(
                f"model.pruning.sparsity_warmup_steps={self.sparsity_warmup_steps} is no duration. Use 0 or more."
            )
        if abs(self.initial_log_alpha) > LOG_ALPHA_LIMIT:
            raise ShapeError(
                f"model.pruning.initial_log_alpha={self.initial_log_alpha} is outside the range of a gate. "
                f"Use a value within ±{LOG_ALPHA_LIMIT:.4f}."
            )
        if not 0 <= self.initial_gap <= 2 * LOG_ALPHA_LIMIT or self.calibration_sequences < 1:
            raise ShapeError(
                f"model.pruning.initial_gap={self.initial_gap} must lie in [0, {2 * LOG_ALPHA_LIMIT:.4f}], the "
                f"range of a gate, and calibration_sequences={self.calibration_sequences} must be at least 1. "
                f"Use 0.0 to start all gates equal."
            )
        if self.second_multiplier_start < 0:
            raise ShapeError(
                f"model.pruning.second_multiplier_start={self.second_multiplier_start} would reward a wrong size. "
                f"Use 0 or more."
            )
        self._refuse_options_without_effect()
        self._check_repair()
        self._check_fall_and_draws()
        _ = self.request  # which refuses none and more than one

    @property
    def request(self) -> TargetRequest:
        """What the user says of the target."""
        return TargetRequest(
            shape=self.target,
            parameters=self.target_parameters,
            flops_fraction=self.target_flops_fraction,
            preset=self.target_preset,
            key="model.pruning.target",
        )

    @property
    def shape(self) -> ModelShape:
        """The target's shape, which must be known."""
        assert isinstance(self.target, ModelShape), "a target that is not a whole shape is resolved first"
        return self.target

    @property
    def ranked(self) -> bool:
        """Whether gates start in the order of importance."""
        return self.constraint == "exact" or self.initial_gap > 0

    def resolved(self, config: PretrainedConfig) -> "Pruning":
        """The same with the target as a whole shape of the model that ``config`` describes.

        Raises:
            ShapeError: there is no such shape; the error says what can be reached.
        """
        if isinstance(self.target, ModelShape):
            return self
        shape = self.request.resolve(config, tuple(Axis(axis) for axis in self.axes))
        return replace(
            self, target=shape, target_parameters=None, target_flops_fraction=None, target_preset=None
        )

    def start_sparsity_of(self, axis: Axis) -> float:
        """The fraction of units that ``axis`` is asked to lose at step 0."""
        if isinstance(self.start_sparsity, Mapping):
            return float(self.start_sparsity.get(axis.value, 0.0))
        return self.start_sparsity

    def gated_axes(self, family: Family) -> tuple[Axis, ...]:
        """The axes that get gates: those on which the target is smaller.

        Raises:
            ShapeError: the target cannot be cut from the source, or shrinks an axis that is not in ``axes``, or
                ``start_sparsity`` names an axis that keeps its size.
        """
        shrinking = shrinking_axes(family.shape, self.shape)
        for axis in shrinking:
            if axis.value not in self.axes:
                raise ShapeError(
                    f"model.pruning.target.{axis.value} shrinks {axis.value} from {family.shape.units(axis)} to "
                    f"{self.shape.units(axis)} units, but model.pruning.axes={list(self.axes)} does not list it. "
                    f"Add {axis.value} to model.pruning.axes, or keep the source's size."
                )
        family.check_target(self.shape)
        if not shrinking:
            raise ShapeError(
                "model.pruning.target has the shape of the source: there is nothing to prune. "
                "Make it smaller, or set model.pruning to null to train without gates."
            )
        if isinstance(self.start_sparsity, Mapping):
            for name in self.start_sparsity:
                if Axis(name) not in shrinking:
                    raise ShapeError(
                        f"model.pruning.start_sparsity.{name} has no effect: the target keeps all {name} of the "
                        f"source. Remove it, or use a smaller target."
                    )
        return shrinking

    def _check_start_sparsity(self) -> None:
        given = self.start_sparsity
        for name in given if isinstance(given, Mapping) else ():
            if name not in tuple(Axis):
                raise ShapeError(
                    f"model.pruning.start_sparsity names {name!r}, which is no axis. "
                    f"Use {', '.join(axis.value for axis in Axis)}."
                )
        for fraction in given.values() if isinstance(given, Mapping) else (given,):
            if not 0 <= fraction < 1:
                raise ShapeError(
                    f"model.pruning.start_sparsity={fraction} is no fraction of units to lose: "
                    f"it lies in [0, 1). Use 0.0 to start from the whole model."
                )

    @property
    def starts_at_a_cut(self) -> bool:
        """Whether no unit beyond the target's number is open at step 0, without noise."""
        if self.constraint == "exact":
            return self.sparsity_warmup_steps == 0
        # The first unit beyond is a tenth of the gap higher than the last (``starts.ranked_log_alpha``).
        highest = LOG_ALPHA_LIMIT - self.initial_gap * (1 - ORDERED_SHARE)
        return self.initial_gap > 0 and highest <= threshold()

    def _check_repair(self) -> None:
        if self.repair is not None and not (self.starts_at_a_cut or self.fall.stages):
            raise ShapeError(
                "model.pruning.repair: the run starts with more units open than the target keeps, and there is no cut "
                "to repair. Start at one, with initial_gap=9.2, or constraint=exact and sparsity_warmup_steps=0; let "
                "sizes fall in stages, with constraint=exact and fall.stages=4; or leave it out, and repair the export "
                "(`shear-lit export --repair`)."
            )
        criteria_by_axis(self.ranking, key="model.pruning.ranking")  # which refuses what orders nothing

    def _check_fall_and_draws(self) -> None:
        if self.fall.stages > max(1, self.sparsity_warmup_steps):
            raise ShapeError(
                f"model.pruning.fall.stages={self.fall.stages} is more than sparsity_warmup_steps="
                f"{self.sparsity_warmup_steps}, and two stages cannot begin at one step. Use fewer stages, or a longer "
                f"warm-up."
            )
        if self.fall.order == "ranked" and self.initial_gap > 0:
            raise ShapeError(
                f"model.pruning.fall.order=ranked with initial_gap={self.initial_gap}: a gap at the target brings all "
                f"other units closer together, and those that leave before it would be undecided. Use initial_gap=0."
            )
        if self.draws.hard_from_fraction < 1 and self.keep_layer_period:
            raise ShapeError(
                "model.pruning.draws.hard_from_fraction with keep_layer_period=true: the blocks that keep the period "
                "are chosen at the cut, and training does not know them. Use hard_from_fraction=1, or "
                "keep_layer_period=false."
            )

    def _refuse_options_without_effect(self) -> None:
        exact = self.constraint == "exact"
        idle = {
            "exact": not exact and self.exact != ExactGates(),
            "second_multiplier_start": exact and self.second_multiplier_start != 0,
            "initial_log_alpha": self.ranked and self.initial_log_alpha != LOG_ALPHA_LIMIT,
            "initial_scores": not self.ranked and self.initial_scores is not None,
            "fall": self.fall != Fall() and (not exact or self.sparsity_warmup_steps == 0),
            "ranking": self.ranking != "default" and (not self.ranked or self.initial_scores is not None),
        }
        for name, without_effect in idle.items():
            if without_effect:
                raise ShapeError(
                    f"model.pruning.{name} has no effect with model.pruning.constraint={self.constraint} and "
                    f"initial_gap={self.initial_gap}: {_NEEDS[name]} Remove it, or change those."
                )


_NEEDS = {
    "exact": "it belongs to constraint=exact.",
    "fall": "it says how sizes fall with constraint=exact, during sparsity_warmup_steps of more than 0.",
    "second_multiplier_start": "there are no multipliers.",
    "initial_log_alpha": "gates start in the order of importance, not all at one place.",
    "ranking": "gates start in an order where initial_gap is more than 0, or with constraint=exact, and initial_scores "
    "would give it.",
    "initial_scores": "they order the gates where initial_gap is more than 0, or with constraint=exact.",
}
