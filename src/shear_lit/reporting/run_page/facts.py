"""What the page of a run says, apart from how it looks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from shear_lit.theory.shape import Axis, ModelShape

Series = tuple[tuple[int, float], ...]
"""Optimizer steps, rising, and a finite number at each."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The gates at one step."""

    step: int
    """Optimizer steps before it."""
    chances: Mapping[Axis, Tensor]
    """Keep probability of every unit, in the shape of ``ModelShape.gate_shape``."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The units that stay."""

    shape: ModelShape
    """How many they are."""
    kept: Mapping[Axis, Tensor]
    """Their indices in the source: of layers and hidden one row, of others a row for every block of the source."""
    meaning: str
    """Which cut it is, in words."""


@dataclass(frozen=True, kw_only=True)
class PlainTable:
    """Rows that another file holds as text."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    said: str = ""
    """What the file says about them."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the files of a run's directory hold."""

    name: str
    """The directory's name."""
    state: str
    """Whether it goes on, ended, or stopped before its end; a sentence."""
    ended: bool
    """Whether it took all of its steps."""
    config: Mapping[str, Any]
    """The resolved config, nested."""
    series: Mapping[str, Series]
    """What the run reported, by name; numbers that are not finite are not in it."""
    mixture: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """The step from which on a mixture was drawn, and the fraction of each domain."""
    gates: tuple[Snapshot, ...] = ()
    """At the start, in the middle and at the end; fewer where fewer were written."""
    source_shape: ModelShape | None = None
    """Shape of the source; None where no file says it."""
    cut: Cut | None = None
    """The units that stay; None where nothing is cut, or not known."""
    tables: tuple[PlainTable, ...] = ()
    """Repair, comparisons and samples, as far as they were written."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the run is made of, as it was first begun."""
    starts: int = 1
    """How many times it was begun or resumed."""
    notes: tuple[str, ...] = ()
    """What could not be read, and why."""

    @property
    def last_step(self) -> int:
        """The last step of which something was reported."""
        return max((points[-1][0] for points in self.series.values() if points), default=0)

    @property
    def steps(self) -> int:
        """Steps that it is to take; 0 where the config does not say."""
        steps = self.setting("trainer.max_steps")
        return steps if isinstance(steps, int) and steps > 0 else 0

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, the one with the largest weight in the end first."""
        if self.mixture:
            last = self.mixture[-1][1]
            return tuple(sorted(last, key=lambda name: (-last[name], name)))
        return tuple(self.below("loss/validation/").keys() - {"mean"})

    def setting(self, key: str) -> Any:
        """A value of the config by its key with dots; None where there is none."""
        found: Any = self.config
        for name in key.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def below(self, prefix: str) -> dict[str, Series]:
        """The series whose name begins with ``prefix``, by the rest of it."""
        return {
            name.removeprefix(prefix): points
            for name, points in self.series.items()
            if name.startswith(prefix)
        }

    def reference(self, domain: str) -> float | None:
        """Reference loss of a domain: what its loss and its lag differ by; None where it has none."""
        losses, lags = (dict(self.series.get(f"loss/{kind}/{domain}", ())) for kind in ("validation", "lag"))
        return next((losses[step] - lag for step, lag in lags.items() if step in losses), None)
