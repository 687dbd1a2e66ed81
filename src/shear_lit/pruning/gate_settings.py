"""What a user says about the gates of a run: how sharp they are, how their sizes fall, and how they are drawn."""

from dataclasses import dataclass
from typing import Literal

from shear_lit.ranges import CountFrom0, PositiveFraction, PositiveNumber, as_plain_numbers
from shear_lit.theory.shape import ShapeError

Objective = Literal["same", "language", "distillation"]
"""What gates learn from: what weights do, cross-entropy alone, or the divergence from the teacher alone."""


@dataclass(frozen=True, kw_only=True)
class ExactGates:
    """Gates of an exact expected size: how sharp they are and how noisy, over the run.

    The defaults start as good as the ranked cut: of a row whose size is the target's, about one unit in a hundred is
    undecided. Where sizes fall from the whole model, and gates shall tell units apart by themselves, start at 1 to 5
    with a noise of 1, and sharpen to 50 or more.
    """

    start_sharpness: PositiveNumber = 50.0
    """What log alpha is multiplied by at step 0. The units of a row are spread over 9.2 in the order of their
    importance; those within about 3 of the threshold, after the multiplication, are undecided."""
    final_sharpness: PositiveNumber = 200.0
    """What it is multiplied by from ``settling_fraction`` of the run on; between the two it grows by equal ratios."""
    settling_fraction: PositiveFraction = 0.8
    """Share of the run over which the gates sharpen; for the rest they are as good as fixed, and weights learn."""
    noise: PositiveFraction = 0.2
    """What the noise of a draw is multiplied by; 1 is the paper's, close to 0 a gate is nearly a number."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)
        if not 0 < self.start_sharpness <= self.final_sharpness:
            raise ShapeError(
                f"model.pruning.exact: start_sharpness={self.start_sharpness} and final_sharpness="
                f"{self.final_sharpness}: gates sharpen, from more than 0. Use for example 50 and 200."
            )
        if not (0 < self.settling_fraction <= 1 and 0.01 <= self.noise <= 1):
            raise ShapeError(
                f"model.pruning.exact: settling_fraction={self.settling_fraction} must lie in (0, 1] and noise="
                f"{self.noise} in [0.01, 1]. Use for example 0.8 and 0.2."
            )


@dataclass(frozen=True, kw_only=True)
class Fall:
    """How sizes fall to the target during ``sparsity_warmup_steps``, with ``constraint: exact`` (deviation D22)."""

    order: Literal["learned", "ranked"] = "learned"
    """In which order units leave: `learned`, of gates that learn meanwhile; or `ranked`, that of the ranking, a whole
    unit of each row at a time: gates begin to learn when sizes have arrived."""
    stages: CountFrom0 = 0
    """In how many equal steps sizes fall, the last of them at the end; 0: a little at every step. Each stage is a shape
    that a stock model can have, and ``repair`` refits its cut."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)

    @property
    def by_whole_units(self) -> bool:
        """Whether the size that is asked of a row is always a whole number."""
        return self.order == "ranked" or self.stages > 0


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How the gates of a micro-batch are drawn towards the end of a run (deviation D23)."""

    noise_until_fraction: PositiveFraction = 1.0
    """Share of the run after which draws have no noise: a gate is what its log alpha says; 1: never."""
    hard_from_fraction: PositiveFraction = 1.0
    """Share of the run after which the gates in force are those of the cut, while their gradients stay those of the
    draw; 1: never."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)
        for name in ("noise_until_fraction", "hard_from_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ShapeError(
                    f"model.pruning.draws.{name}={getattr(self, name)} must lie in (0, 1]: it is a share of the run. "
                    f"Use for example 0.8, or 1 for never."
                )
