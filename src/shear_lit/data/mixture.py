"""The settings of the mixture: where it starts, and how it follows the losses (arXiv:2310.06694, section 2.2)."""

import math
from dataclasses import dataclass
from typing import Literal

from shear_lit.data.errors import DataError
from shear_lit.data.references import References, read_references
from shear_lit.theory.mixture import MixtureRule


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """How much of each domain is drawn, and how that follows the losses."""

    proportions: dict[str, float]
    """Fraction of each domain at the start; they sum to 1."""
    references: str | dict[str, float] | None = None
    """Reference losses: a file of `shear-lit reference`, or nats per token by domain; not needed by `static`."""
    rule: Literal["paper", "release", "static"] = "paper"
    """`paper`: w exp(max(0, loss - reference)); `release`: w exp(loss - reference) and a floor; `static`: w."""
    floor: float | Literal["rule"] = "rule"
    """Fraction of the uniform mixture that each update mixes in; `rule`: 0 for `paper`, 1e-4 for `release`."""
    update_every_steps: int = 50
    """Optimizer steps between two validations, each of which moves the mixture."""
    update_at_start: bool = False
    """Whether to validate and move the mixture before the first step, too."""
    max_epochs: float | None = None
    """How often a domain may be read: then its share goes to the others; `null`: again and again, reshuffled."""

    def __post_init__(self) -> None:
        self._check_proportions()
        if self.rule not in list(MixtureRule):
            rules = ", ".join(MixtureRule)
            raise DataError(
                f"data.mixture.rule={self.rule!r} is no rule: the rules are {rules}. Choose one of them."
            )
        if self.references is None and self.rule != "static":
            raise DataError(
                f"data.mixture.references is missing: rule {self.rule!r} compares losses with it. "
                "Give a file of `shear-lit reference measure`, losses by domain, or use data.mixture.rule=static."
            )
        if self.floor != "rule" and (self.rule == "static" or not 0 <= float(self.floor) < 1):
            raise DataError(
                f"data.mixture.floor={self.floor} with rule {self.rule!r}: a floor is a fraction from 0 to below 1 and "
                "has no effect on a static mixture. Correct it, or leave it out."
            )
        if self.update_every_steps < 1:
            raise DataError(
                f"data.mixture.update_every_steps={self.update_every_steps}: use at least 1 step."
            )
        if self.max_epochs is not None and not self.max_epochs > 0:
            raise DataError(
                f"data.mixture.max_epochs={self.max_epochs}: use more than 0, or null for no cap."
            )

    @property
    def update_floor(self) -> float:
        """The floor as a number."""
        return MixtureRule(self.rule).default_floor if self.floor == "rule" else float(self.floor)

    def read_references(self) -> References | None:
        """The reference losses, from their file if they lie in one.

        Raises:
            DataError: the file cannot be read.
        """
        if isinstance(self.references, str):
            return read_references(self.references)
        if self.references is None:
            return None
        return References(source="data.mixture.references", tokenizer="", losses=dict(self.references))

    def _check_proportions(self) -> None:
        shares = self.proportions
        if not shares or not all(math.isfinite(share) and share >= 0 for share in shares.values()):
            raise DataError(
                f"data.mixture.proportions={shares}: each domain's fraction must be finite and at least 0. Correct it."
            )
        total = math.fsum(shares.values())
        if abs(total - 1) > 1e-6:
            scaled = ", ".join(f"{name}: {share / total:.6g}" for name, share in shares.items() if total)
            raise DataError(
                f"data.mixture.proportions sum to {total:.6g}: they are fractions of one mixture and must sum to 1. "
                f"Use for example {{{scaled}}}."
            )
