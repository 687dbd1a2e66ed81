"""How the mixture of a run follows losses: those of a validation, or those of its own training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.disk.records import record_of
from shear_lit.theory.mixture import MixtureRule, bounded_weights, update_weights
from shear_lit.theory.online_mixture import AdoState, OdmState, Seen, ado_update, odm_update

Agreed = Callable[[Any], Any]
"""Gives each process of a run what the first one has, in plain types."""


def own(value: Any) -> Any:
    """What one process alone agrees on."""
    return value


class MovingMixture:
    """The rule, the references and the bounds of a run's mixture, by domain, and what the rule remembers."""

    def __init__(
        self,
        settings: MixtureSettings,
        domains: tuple[str, ...],
        references: Tensor | None,
        start: Sequence[float],
    ) -> None:
        """Take ``references`` in nats per token, in the order of ``domains``, as ``start``, the first mixture.

        Rules that compare nothing with references need none.
        """
        self._settings, self._domains = settings, domains
        self._rule = MixtureRule(settings.rule)
        self._references = (
            torch.zeros(len(domains), dtype=torch.float64) if references is None else references
        )
        self._drawn = (0,) * len(domains)
        self._state: OdmState | AdoState | None = None
        if self._rule is MixtureRule.ODM:
            self._state = OdmState(rewards=(0.0,) * len(domains))
        elif self._rule is MixtureRule.ADO:
            self._state = AdoState.started(tuple(map(float, start)))

    def moved(
        self,
        weights: Sequence[float],
        losses: Mapping[str, float] | Tensor,
        *,
        step: int = 0,
        drawn: Sequence[int] = (),
        agreed: Agreed = own,
    ) -> list[float]:
        """The weights after these ``losses``, and the rule remembers what it has seen.

        ``step`` and ``drawn`` are the optimizer steps and the sequences of each domain since the start of the run. A
        domain without a validation loss counts as at its reference. Of several processes all have what the first one
        computed (``agreed``): sums of losses may differ between them in the last bit, and the order of data would.

        Raises:
            DataError: the loss of a domain that is drawn from is not finite, or a loss is of no known domain.
        """
        before, loss = torch.tensor(weights, dtype=torch.float64), self._vector(losses)
        for name, weight, value in zip(self._domains, weights, loss.tolist(), strict=True):
            absent = self._rule.follows == "training" and math.isnan(
                value
            )  # no token of it since the last update
            if self._rule.follows and weight > 0 and not (math.isfinite(value) or absent):
                raise DataError(
                    f"the {self._rule.follows} loss of domain {name!r} is {value}: the mixture cannot follow it. "
                    "Look at the last checkpoint, and lower the learning rate."
                )
        after = self._after(before, loss, step, tuple(drawn))
        moved = (self._bounded(after, before) if self._settings.limits_updates else after).tolist()
        moved, remembered = agreed((moved, self.state_dict()))
        self.load_state_dict(remembered)
        return list(moved)

    def state_dict(self) -> dict[str, Any]:
        """What the rule remembers, in plain types; empty for a rule that remembers nothing."""
        return {} if self._state is None else {"drawn": list(self._drawn), **_plain(asdict(self._state))}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Remember what was saved.

        Raises:
            DataError: it was saved by another rule, or of other domains.
        """
        if self._state is None and not saved:
            return
        try:
            if self._state is None:
                raise ValueError("a rule that remembers something")
            drawn, state = saved["drawn"], {key: part for key, part in saved.items() if key != "drawn"}
            found = record_of(type(self._state), state)
            if len(drawn) != len(self._domains):
                raise ValueError("other domains")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._rule.value!r}: the checkpoint was made with another rule, which remembers other things. "
                "Use the checkpoint's, or start a new run without --ckpt_path.",
                key="data.mixture.rule",
            ) from error
        self._state, self._drawn = found, tuple(drawn)

    def _after(self, before: Tensor, loss: Tensor, step: int, drawn: tuple[int, ...]) -> Tensor:
        if self._rule is MixtureRule.STATIC:
            return before
        if self._state is None:
            floor = self._settings.update_floor
            return update_weights(before, loss, self._references, rule=self._rule, floor=floor)
        fresh = torch.tensor(drawn, dtype=torch.float64) - torch.tensor(self._drawn, dtype=torch.float64)
        seen = Seen(losses=loss, shares=fresh / fresh.sum(), step=step, sequences=sum(drawn))
        self._drawn = drawn
        if isinstance(self._state, OdmState):
            after, self._state = odm_update(before, self._state, seen)
        else:
            after, self._state = ado_update(before, self._state, seen)
        return after

    def _bounded(self, after: Tensor, before: Tensor) -> Tensor:
        change = self._settings.largest_change
        return bounded_weights(
            after,
            before,
            minimum=self._by_domain(self._settings.minimum, 0.0),
            maximum=self._by_domain(self._settings.maximum, 1.0),
            largest_change=1.0 if change is None else change,
        )

    def _by_domain(self, named: Mapping[str, float], otherwise: float) -> Tensor:
        return torch.tensor([named.get(name, otherwise) for name in self._domains], dtype=torch.float64)

    def _vector(self, losses: Mapping[str, float] | Tensor) -> Tensor:
        if isinstance(losses, Tensor):
            return losses.detach().to("cpu", torch.float64)
        if unknown := sorted(set(losses) - set(self._domains)):
            raise DataError(
                f"losses of unknown domains: {', '.join(unknown)}; the data has {', '.join(self._domains)}."
            )
        known = zip(self._domains, self._references.tolist(), strict=True)
        return torch.tensor([float(losses.get(name, at)) for name, at in known], dtype=torch.float64)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
