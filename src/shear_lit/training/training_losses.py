"""The losses of training by domain, for mixtures that follow them: summed from one move of the mixture to the next."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from shear_lit.evaluation.domain_loss import DomainLoss

TRAINING_LOSSES = "training_losses"
"""Their key in a checkpoint."""
_STATES = ("loss_sum", "token_count")


class TrainingLosses(DomainLoss):
    """Of all processes, in nats per token. Between two moves a checkpoint holds them."""

    def taken(self) -> Tensor:
        """The means since they were last taken, in float64, nan without a token; every process must ask."""
        means = self.compute().cpu()
        self.reset()
        return means

    def gathered(self, sum_over_ranks: Callable[[Tensor], Tensor], *, rank: int) -> dict[str, list[float]]:
        """The sums of all processes, which the first one has from here on, as it does after a resume."""
        found = {name: sum_over_ranks(getattr(self, name)) for name in _STATES}
        self._set(found, rank=rank)
        return {name: total.tolist() for name, total in found.items()}

    def go_on(self, saved: Mapping[str, list[float]], *, rank: int) -> None:
        """Have what a checkpoint holds."""
        self._set(
            {
                name: torch.tensor(saved[name], dtype=torch.float64, device=self.loss_sum.device)
                for name in _STATES
            },
            rank=rank,
        )

    def _set(self, sums: Mapping[str, Tensor], *, rank: int) -> None:
        for name, total in sums.items():
            setattr(self, name, total.clone() if rank == 0 else torch.zeros_like(total))
