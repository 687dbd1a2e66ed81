"""The losses of training by domain, for mixtures that follow them: summed from one move of the mixture to the next."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from shear_lit.evaluation.domain_loss import DomainLoss

TRAINING_LOSSES = "training_losses"
"""Their key in a checkpoint."""
SumOverRanks = Callable[[Tensor], Tensor]
_STATES = ("loss_sum", "token_count")


class TrainingLosses(DomainLoss):
    """In nats per token. Between two moves a checkpoint holds them, so that they may be asked for before any update."""

    def taken(self, sum_over_ranks: SumOverRanks) -> Tensor:
        """The mean of each domain since they were last taken, of all processes; nan without a token."""
        losses, tokens = self._sums(sum_over_ranks).values()
        self.reset()
        return (losses / tokens).cpu()

    def gathered(self, sum_over_ranks: SumOverRanks, *, rank: int) -> dict[str, list[float]]:
        """The sums of all processes, which the first one has from here on, as it does after a resume."""
        found = self._sums(sum_over_ranks)
        self._set(found, rank=rank)
        return {name: total.tolist() for name, total in found.items()}

    def go_on(self, saved: Mapping[str, list[float]], *, rank: int) -> None:
        """Have what a checkpoint holds."""
        device = self.loss_sum.device
        sums = {name: torch.tensor(saved[name], dtype=torch.float64, device=device) for name in _STATES}
        self._set(sums, rank=rank)

    def _sums(self, sum_over_ranks: SumOverRanks) -> dict[str, Tensor]:
        return {name: sum_over_ranks(getattr(self, name)) for name in _STATES}

    def _set(self, sums: Mapping[str, Tensor], *, rank: int) -> None:
        for name, total in sums.items():
            setattr(self, name, total.clone() if rank == 0 else torch.zeros_like(total))
