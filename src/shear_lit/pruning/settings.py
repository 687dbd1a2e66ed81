"""What a user says about pruning."""

from dataclasses import dataclass
from typing import Literal

from shear_lit.models.family import Family
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.shape import Axis, ModelShape, ShapeError, shrinking_axes

AxisName = Literal["layers", "hidden", "kv_heads", "query_heads", "intermediate"]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """The target of stage 1 and the way there (arXiv:2310.06694, section 2.1)."""

    target: ModelShape
    """Shape of the model that remains."""
    axes: tuple[AxisName, ...] = ("layers", "hidden", "kv_heads", "query_heads", "intermediate")
    """Axes that may lose units. One on which source and target agree gets no gates."""
    start_sparsity: float = 0.0
    """Fraction of units that every axis is asked to lose at step 0."""
    sparsity_warmup_steps: int = 640
    """Optimizer steps over which the asked-for sparsity rises, linearly, to the target's."""
    initial_log_alpha: float = LOG_ALPHA_LIMIT
    """Where every gate starts; the default is the top of its range, all units kept (deviation D4)."""
    initial_gap: float = 0.0
    """How far below the top the units beyond the target's number begin, in the order of their squared gradients
    on a little text. 0 starts all gates equal, as the paper does; 9.2 starts from the ranked cut, which training may
    revise (deviation D4)."""
    calibration_sequences: int = 8
    """Training sequences of each domain on which importance is measured, where ``initial_gap`` is not 0."""
    second_multiplier_start: float = 0.0
    """Where the multipliers of the squared excess start. 0 is the paper's; a few hundred keeps the sizes on their
    schedule from the first step, which short runs need (deviation D12)."""

    def __post_init__(self) -> None:
        if not 0 <= self.start_sparsity < 1:
            raise ShapeError(
                f"model.pruning.start_sparsity={self.start_sparsity} is no fraction of units to lose: "
                f"it lies in [0, 1). Use 0.0 to start from the whole model."
            )
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

    def gated_axes(self, family: Family) -> tuple[Axis, ...]:
        """The axes that get gates: those on which the target is smaller.

        Raises:
            ShapeError: the target cannot be cut from the source, or shrinks an axis that is not in ``axes``.
        """
        shrinking = shrinking_axes(family.shape, self.target)
        for axis in shrinking:
            if axis.value not in self.axes:
                raise ShapeError(
                    f"model.pruning.target.{axis.value} shrinks {axis.value} from {family.shape.units(axis)} to "
                    f"{self.target.units(axis)} units, but model.pruning.axes={list(self.axes)} does not list it. "
                    f"Add {axis.value} to model.pruning.axes, or keep the source's size."
                )
        family.check_target(self.target)
        if not shrinking:
            raise ShapeError(
                "model.pruning.target has the shape of the source: there is nothing to prune. "
                "Make it smaller, or set model.pruning to null to train without gates."
            )
        return shrinking
