"""How the mixture of a run follows the losses of a validation (arXiv:2310.06694, algorithm 1)."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.theory.mixture import MixtureRule, bounded_weights, update_weights


class MovingMixture:
    """The rule, the references and the bounds of a run's mixture, by domain."""

    def __init__(
        self, settings: MixtureSettings, domains: tuple[str, ...], references: Tensor | None
    ) -> None:
        """Take ``references`` in nats per token, in the order of ``domains``; a static mixture needs none."""
        self._settings, self._domains = settings, domains
        self._rule = MixtureRule(settings.rule)
        self._references = (
            torch.zeros(len(domains), dtype=torch.float64) if references is None else references
        )

    def moved(self, weights: Sequence[float], losses: Mapping[str, float] | Tensor) -> list[float]:
        """The weights after a validation with these ``losses``; a domain without one counts as at its reference.

        Raises:
            DataError: the loss of a domain that is drawn from is not finite, or a loss is of no known domain.
        """
        before, loss = torch.tensor(weights, dtype=torch.float64), self._vector(losses)
        for name, weight, value in zip(self._domains, weights, loss.tolist(), strict=True):
            if self._rule is not MixtureRule.STATIC and weight > 0 and not math.isfinite(value):
                raise DataError(
                    f"the validation loss of domain {name!r} is {value}: the mixture cannot follow it. "
                    "Look at the last checkpoint, and lower the learning rate."
                )
        floor = self._settings.update_floor
        after = update_weights(before, loss, self._references, rule=self._rule, floor=floor)
        return (self._bounded(after, before) if self._settings.limits_updates else after).tolist()

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
