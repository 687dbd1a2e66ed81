"""The settings of the mixture: where it starts, and how it follows the losses (arXiv:2310.06694, section 2.2)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture_log import read_mixture_log
from shear_lit.data.order.references import References, read_references
from shear_lit.data.prepared.manifest import listed_names
from shear_lit.ranges import Count, Fraction, PositiveFraction, PositiveNumber
from shear_lit.theory.mixture import MixtureRule

Caps = PositiveNumber | dict[str, PositiveNumber] | None
"""How often a domain may be read: each, by domain, or without end."""

_ROUNDING = 1e-9


def check_named(key: str, named: object, domains: Iterable[str], where: str) -> None:
    """Refuse numbers by domain that are of others than ``domains``, those of ``where``; ``named`` may be no mapping.

    Raises:
        DataError: one is.
    """
    if isinstance(named, Mapping) and (unknown := sorted(set(named) - set(domains))):
        raise DataError(
            f"{dict(named)} names {listed_names(unknown)}: {where} has {', '.join(domains)}. Correct the name.",
            key=key,
        )


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """How much of each domain is drawn, and how that follows the losses."""

    proportions: dict[str, float] | str
    """Fraction of each domain at the start, which sum to 1; or a run (or its `mixture.json`), whose last they are."""
    references: str | dict[str, float] | None = None
    """Reference losses: a file of `shear-lit reference`, or nats per token by domain; not needed by `static`."""
    rule: Literal["paper", "release", "static", "odm", "ado"] = "paper"
    """`paper`: w exp(max(0, loss - reference)); `release`: w exp(loss - reference) and a floor; `static`: w;
    `odm`, `ado`: by training losses."""
    floor: float | Literal["rule"] = "rule"
    """Fraction of the uniform mixture that each update mixes in; `rule`: 0 for `paper`, 1e-4 for `release`."""
    minimum: dict[str, Fraction] = field(default_factory=dict)
    """Smallest weight that an update may leave a domain, by domain; those not named have none."""
    maximum: dict[str, Fraction] = field(default_factory=dict)
    """Largest weight that an update may give a domain, by domain; those not named have none."""
    largest_change: PositiveFraction | None = None
    """Most that one update may add to a weight or take from it; `null`: no limit."""
    update_every_steps: Count = 50
    """Optimizer steps between two validations, each of which moves the mixture."""
    update_at_start: bool = False
    """Whether to validate and move the mixture before the first step, too."""
    max_epochs: Caps = None
    """How often a domain may be read, each or by domain: then its share goes to the others; `null`: without end."""

    def __post_init__(self) -> None:
        for key in ("proportions", "references"):
            if str(getattr(self, key)).startswith("{") and isinstance(getattr(self, key), str):
                raise DataError(
                    f"{getattr(self, key)!r} is no mapping of domains to numbers, nor a file. Write for example "
                    f"{{code: 0.5, law: 0.5}}, with a number after each name.",
                    key=f"data.mixture.{key}",
                )
        if not isinstance(self.proportions, str):
            self._check_proportions(self.proportions)
        elif self.proportions.lstrip().startswith(
            "{"
        ):  # which the parser took for a name, as it is no mapping
            raise DataError(
                f"{self.proportions!r}: each domain has a number, its fraction: {{wiki: 0.5, code: 0.5}}. Correct it.",
                key="data.mixture.proportions",
            )
        self._check_rule()
        self._check_limits()
        if not isinstance(self.proportions, str):
            self._check_start(self.proportions)
        if self.update_every_steps < 1:
            raise DataError(
                f"{self.update_every_steps}: use at least 1 step.", key="data.mixture.update_every_steps"
            )
        caps = self.max_epochs if isinstance(self.max_epochs, dict) else {"": self.max_epochs}
        if any(cap is not None and not cap > 0 for cap in caps.values()):
            raise DataError(
                f"{self.max_epochs}: use more than 0, or null for no cap; "
                "a domain that is never to be read has a proportion of 0.",
                key="data.mixture.max_epochs",
            )

    @property
    def update_floor(self) -> float:
        """The floor as a number."""
        return MixtureRule(self.rule).default_floor if self.floor == "rule" else float(self.floor)

    @property
    def follows(self) -> Literal["validation", "training"] | None:
        """Which losses move the mixture."""
        return MixtureRule(self.rule).follows

    @property
    def limits_updates(self) -> bool:
        """Whether there is a smallest or largest weight, or a largest change."""
        return bool(self.minimum or self.maximum or self.largest_change is not None)

    def check_names(self, domains: Iterable[str], where: str) -> None:
        """Refuse bounds and caps of domains that ``where`` does not have.

        Raises:
            DataError: one names another than ``domains``.
        """
        check_named("data.mixture.minimum", self.minimum, domains, where)
        check_named("data.mixture.maximum", self.maximum, domains, where)
        check_named("data.mixture.max_epochs", self.max_epochs, domains, where)

    def read_proportions(self) -> dict[str, float]:
        """The mixture at the start, from the log of another run if one is named.

        Raises:
            DataError: the log cannot be read, or its last mixture misses the limits.
        """
        if not isinstance(self.proportions, str):
            return dict(self.proportions)
        weights = dict(read_mixture_log(self.proportions).final_weights)
        self._check_start(weights)
        return weights

    def read_references(self) -> References | None:
        """The reference losses, from their file if they lie in one.

        Raises:
            DataError: the file cannot be read.
        """
        if isinstance(self.references, str):
            return read_references(self.references)
        if self.references is None:
            return None
        return References(source="data.mixture.references", losses=dict(self.references))

    def _check_rule(self) -> None:
        if self.rule not in list(MixtureRule):
            rules = ", ".join(MixtureRule)
            raise DataError(
                f"{self.rule!r} is no rule: the rules are {rules}. Choose one of them.",
                key="data.mixture.rule",
            )
        if self.references is None and self.follows == "validation":
            raise DataError(
                f"data.mixture.references is missing: rule {self.rule!r} compares losses with it. "
                "Give a file of `shear-lit reference measure`, losses by domain, or use data.mixture.rule=static.",
            )
        floored = self.follows == "validation"
        if self.floor != "rule" and not (floored and 0 <= float(self.floor) < 1):
            raise DataError(
                f"{self.floor} with rule {self.rule!r}: a floor is a fraction from 0 to below 1 and "
                "has an effect on the rules 'paper' and 'release' alone. Correct it, or leave it out.",
                key="data.mixture.floor",
            )
        if self.update_at_start and self.follows == "training":
            raise DataError(
                f"{self.rule!r} follows the losses of training, of which there are none at the start. Use "
                "data.mixture.update_at_start=false.",
                key="data.mixture.update_at_start",
            )

    def _check_limits(self) -> None:
        if self.rule == "static" and self.limits_updates:
            raise DataError(
                "data.mixture.minimum, .maximum and .largest_change have no effect with rule 'static', whose mixture "
                "stays as it is. Leave them out, or choose another rule."
            )
        for key, bounds in (("minimum", self.minimum), ("maximum", self.maximum)):
            for name, bound in bounds.items():
                if not 0 <= bound <= 1:
                    raise DataError(
                        f"data.mixture.{key}: {name}: {bound} is no weight: use a fraction from 0 to 1."
                    )
        for name in self.minimum.keys() & self.maximum.keys():
            if self.minimum[name] > self.maximum[name]:
                raise DataError(
                    f"data.mixture.minimum: {name}: {self.minimum[name]} is more than data.mixture.maximum: "
                    f"{name}: {self.maximum[name]}. Lower the one, or raise the other."
                )
        if (total := math.fsum(self.minimum.values())) > 1:
            raise DataError(
                f"data.mixture.minimum: the smallest weights sum to {total:.6g}, and the weights to 1. Lower some."
            )
        if self.largest_change is not None and not 0 < self.largest_change <= 1:
            raise DataError(
                f"{self.largest_change}: a change of weight is above 0 and at most 1. "
                "Correct it, or use null for no limit; a mixture that does not move has data.mixture.rule=static.",
                key="data.mixture.largest_change",
            )

    def _check_start(self, weights: Mapping[str, float]) -> None:
        """Refuse a start outside the bounds: they can be met then, since the weights at the start sum to 1."""
        for name, weight in weights.items():
            low, high = self.minimum.get(name, 0.0), self.maximum.get(name, 1.0)
            if not low - _ROUNDING <= weight <= high + _ROUNDING:
                raise DataError(
                    f"data.mixture.proportions: {name}: {weight:.6g} lies outside data.mixture.minimum and .maximum "
                    f"({low} to {high}): the mixture starts within its bounds, and a domain of weight 0 stays there. "
                    "Change the proportion or the bound."
                )

    @staticmethod
    def _check_proportions(shares: Mapping[str, float]) -> None:
        if not shares or not all(math.isfinite(share) and share >= 0 for share in shares.values()):
            raise DataError(
                f"{dict(shares)}: each domain's fraction must be finite and at least 0. Correct it.",
                key="data.mixture.proportions",
            )
        total = math.fsum(shares.values())
        if abs(total - 1) > 1e-6:
            scaled = ", ".join(f"{name}: {share / total:.6g}" for name, share in shares.items() if total)
            raise DataError(
                f"data.mixture.proportions sum to {total:.6g}: they are fractions of one mixture and must sum to 1. "
                f"Use for example {{{scaled}}}."
            )
