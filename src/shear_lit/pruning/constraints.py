"""How sizes are held, as two answers to the same questions: by multipliers that learn, or by one shift of every row."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from shear_lit.theory import exact_size, hard_concrete
from shear_lit.theory.shape import Axis, ModelShape

GateValues = dict[Axis, Float[Tensor, "..."]]
"""Gates in [0, 1] by axis, each of ``ModelShape.gate_shape(axis)``; an axis that is absent keeps all its units."""
Rows = Mapping[Axis, Tensor]
"""The parameters of gates by axis, or what moves each of their rows."""


class SizeConstraint(ABC):
    """What the gates of a moment are, given their parameters."""

    def shifts(self, parameters: Rows) -> Rows | None:
        """What brings every row to its size of this moment, where that takes a search."""
        return None

    @abstractmethod
    def placed(self, parameters: Rows, shifts: Rows | None = None) -> dict[Axis, Tensor]:
        """The log alpha of every axis; by ``shifts``, where they are known."""

    @abstractmethod
    def placed_at(self, rows: Tensor, units: int, shift: Tensor | None = None) -> Tensor:
        """The log alpha of one axis if each row kept ``units``; by ``shift``, where that is known."""

    @abstractmethod
    def units_now(self, axis: Axis, rows: Tensor) -> Tensor | int:
        """The units that rows keep as they are now, a whole number."""

    @abstractmethod
    def chance(self, log_alpha: Tensor) -> Tensor:
        """P(gate > 0)."""

    @abstractmethod
    def draw(self, log_alpha: Tensor, uniform: Tensor) -> Tensor:
        """One draw of the gates."""

    @abstractmethod
    def evaluated(self, log_alpha: Tensor, kept: Tensor) -> Tensor:
        """Gates without noise of which ``kept`` in every row are not 0."""

    def chances(self, parameters: Rows, shifts: Rows | None = None) -> dict[Axis, Tensor]:
        """P(gate > 0) of every unit by axis."""
        return {axis: self.chance(rows) for axis, rows in self.placed(parameters, shifts).items()}

    def drawn(self, parameters: Rows, uniform: Rows, shifts: Rows | None = None) -> GateValues:
        """One draw of all gates."""
        return {
            axis: self.draw(rows, uniform[axis]) for axis, rows in self.placed(parameters, shifts).items()
        }

    def standing(
        self,
        parameters: Rows,
        target: ModelShape | None = None,
        *,
        blocks: tuple[int, ...] | None = None,
        shifts: Rows | None = None,
    ) -> GateValues:
        """Gates without noise: exactly ``target`` units in every row, or the number that they keep as they are now.

        ``blocks``: the blocks to keep, where they are not to be those with the largest gates. ``shifts``: what brings
        rows to the size of ``target``, where that is known.
        """
        values = {}
        for axis, rows in parameters.items():
            units = self.units_now(axis, rows) if target is None else target.units(axis)
            kept = (
                units if isinstance(units, Tensor) else torch.full(rows.shape[:-1], units, device=rows.device)
            )
            shift = None if shifts is None else shifts[axis]
            place = rows if isinstance(units, Tensor) else self.placed_at(rows, units, shift)
            values[axis] = self.evaluated(place, kept)
        if blocks is not None and Axis.LAYERS in parameters:
            assert target is not None
            values[Axis.LAYERS] = self._only(blocks, parameters[Axis.LAYERS], target.layers)
        return values

    def _only(self, blocks: tuple[int, ...], rows: Tensor, units: int) -> Tensor:
        """The gates of ``blocks`` as they stand at the target's size, however small, and 0 for all others."""
        everything = torch.tensor(len(rows), device=rows.device)
        standing = self.evaluated(self.placed_at(rows, units), everything)
        kept, places = torch.zeros_like(standing), list(blocks)
        kept[places] = standing[places].clamp(min=torch.finfo(standing.dtype).tiny)
        return kept


@dataclass(frozen=True)
class Lagrangian(SizeConstraint):
    """Gates stand where their parameters say; multipliers hold their sizes (the paper)."""

    def placed(self, parameters: Rows, shifts: Rows | None = None) -> dict[Axis, Tensor]:
        """They themselves."""
        return dict(parameters)

    def placed_at(self, rows: Tensor, units: int, shift: Tensor | None = None) -> Tensor:
        """They themselves."""
        return rows

    def units_now(self, axis: Axis, rows: Tensor) -> Tensor | int:
        """The sum of chances, rounded."""
        return hard_concrete.expected_kept(rows)

    def chance(self, log_alpha: Tensor) -> Tensor:
        """P(gate > 0)."""
        return hard_concrete.keep_probability(log_alpha)

    def draw(self, log_alpha: Tensor, uniform: Tensor) -> Tensor:
        """One draw of hard-concrete gates."""
        return hard_concrete.sample(log_alpha, uniform)

    def evaluated(self, log_alpha: Tensor, kept: Tensor) -> Tensor:
        """Soft where kept, exactly 0 elsewhere."""
        return hard_concrete.deterministic(log_alpha, kept)


@dataclass(frozen=True, kw_only=True)
class Exact(SizeConstraint):
    """One shift of every row holds it at an exact expected size (deviation D13): what holds at one moment of a run."""

    kept: Mapping[Axis, float]
    """Units that each row of an axis keeps in expectation."""
    sharpness: float
    """What the parameters are multiplied by."""
    noise: float
    """What the noise of a draw is multiplied by."""

    def shifts(self, parameters: Rows) -> Rows:
        """All rows in one search."""
        kept = [self.kept[axis] for axis in parameters]
        found = exact_size.shifts([*parameters.values()], kept, sharpness=self.sharpness, noise=self.noise)
        return dict(zip(parameters, found, strict=True))

    def placed(self, parameters: Rows, shifts: Rows | None = None) -> dict[Axis, Tensor]:
        """Every row at its size."""
        shifts = self.shifts(parameters) if shifts is None else shifts
        return {axis: self._shifted(rows, self.kept[axis], shifts[axis]) for axis, rows in parameters.items()}

    def placed_at(self, rows: Tensor, units: int, shift: Tensor | None = None) -> Tensor:
        """Rows that hold another size."""
        return self._shifted(rows, float(units), shift)

    def units_now(self, axis: Axis, rows: Tensor) -> Tensor | int:
        """The size, rounded."""
        return max(1, round(self.kept[axis]))

    def chance(self, log_alpha: Tensor) -> Tensor:
        """P(gate > 0)."""
        return exact_size.keep_probability(log_alpha, noise=self.noise)

    def draw(self, log_alpha: Tensor, uniform: Tensor) -> Tensor:
        """One draw, of the noise of this moment."""
        return exact_size.sample(log_alpha, uniform, noise=self.noise)

    def evaluated(self, log_alpha: Tensor, kept: Tensor) -> Tensor:
        """Soft where kept, exactly 0 elsewhere."""
        return exact_size.deterministic(log_alpha, kept)

    def _shifted(self, rows: Tensor, kept: float, tau: Tensor | None = None) -> Tensor:
        return exact_size.shifted(rows, kept, sharpness=self.sharpness, noise=self.noise, tau=tau)

    def to_entry(self) -> dict[str, Any]:
        """The numbers by name, for files."""
        kept = {axis.value: units for axis, units in self.kept.items()}
        return {"kept": kept, "sharpness": self.sharpness, "noise": self.noise}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "Exact":
        """What ``to_entry`` gave."""
        kept = {Axis(axis): float(units) for axis, units in entry["kept"].items()}
        return cls(kept=kept, sharpness=float(entry["sharpness"]), noise=float(entry["noise"]))


LAGRANGIAN = Lagrangian()
