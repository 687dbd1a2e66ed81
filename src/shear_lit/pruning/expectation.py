"""How far gates are from a shape, in expectation: what the size constraint left undone and a cut does by force."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from shear_lit.pruning.constraints import LAGRANGIAN, SizeConstraint
from shear_lit.theory.shape import Axis, ModelShape

LOUD_FRACTION = 0.02
"""An axis further than this from its target, in expectation, is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class ExpectedUnits:
    """The units that the gates of one axis keep in expectation: the sum of P(kept) over a row."""

    axis: Axis
    """The axis."""
    target: int
    """Units of each row of the target."""
    mean: float
    """Mean over the rows."""
    lowest: float
    """The row that keeps fewest."""
    highest: float
    """The row that keeps most."""

    @property
    def off_target(self) -> bool:
        """Whether the mean is more than 2 % of the target away from it."""
        return abs(self.mean - self.target) > LOUD_FRACTION * self.target

    def __str__(self) -> str:
        return (
            f"{self.axis.value}: the gates keep {self.mean:.2f} units per row in expectation (rows: {self.lowest:.2f} "
            f"to {self.highest:.2f}), the target is {self.target}: the size constraint was not met, and the cut to "
            f"exactly {self.target} removes or keeps units against it. Train longer, with a shorter sparsity warm-up, "
            f"or with model.pruning.constraint=exact."
        )

    def to_dict(self) -> dict[str, int | float]:
        """The numbers by name, for files."""
        return {"target": self.target, "mean": self.mean, "lowest": self.lowest, "highest": self.highest}


def expected_units(
    log_alpha: Mapping[Axis, Tensor], target: ModelShape, constraint: SizeConstraint = LAGRANGIAN
) -> list[ExpectedUnits]:
    """What the gates keep in expectation, for every axis that has gates."""
    found = []
    for axis, probabilities in constraint.chances(log_alpha).items():
        kept = probabilities.sum(-1)
        found.append(
            ExpectedUnits(
                axis=axis,
                target=target.units(axis),
                mean=float(kept.mean()),
                lowest=float(kept.min()),
                highest=float(kept.max()),
            )
        )
    return found
