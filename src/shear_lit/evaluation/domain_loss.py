"""Next-token losses by domain: every token counts the same, sums are kept in float64."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torchmetrics import Metric

from shear_lit.data.serving.batch import DomainBatch, model_inputs
from shear_lit.evaluation.document_loss import DocumentLosses
from shear_lit.models.head import next_token_losses
from shear_lit.theory.losses import IGNORED


class DomainLoss(Metric):
    """Mean next-token loss of each domain, in nats per token, over all updates and all processes.

    ``domain`` = -1 marks a sequence that only fills a batch up: it counts nowhere.
    """

    full_state_update = False
    higher_is_better = False
    loss_sum: Tensor
    token_count: Tensor
    products: Tensor
    """By domain, over sequences: their number, and the sums of loss x loss, loss x tokens and tokens x tokens."""
    errors: Tensor
    """The standard errors of the means that ``compute`` found last, over sequences; nan with fewer than two."""

    def __init__(self, domains: int) -> None:
        """Measure ``domains`` domains, numbered from 0."""
        super().__init__()
        for state in ("loss_sum", "token_count"):
            self.add_state(state, torch.zeros(domains, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(4, domains, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        losses: Float[Tensor, "sequences tokens"],
        targets: Int64[Tensor, "sequences tokens"],
        domain: Int64[Tensor, "sequences"],
    ) -> None:
        """Count one batch: the loss of what follows each position, where that is no ``IGNORED`` target."""
        counted = targets != IGNORED
        sums = torch.where(counted, losses.double(), 0.0).sum(1)[:, None]
        # A comparison instead of a scatter: the same sums in the same order on every device, and no wait for one.
        member = domain[:, None] == torch.arange(len(self.loss_sum), device=domain.device)
        # Not in place: after a reset in inference mode the sums could not be changed outside of it.
        sizes = counted.sum(1)[:, None].double()
        self.loss_sum = self.loss_sum + torch.where(member, sums, 0.0).sum(0)
        self.token_count = self.token_count + (member * sizes).sum(0)
        products = torch.stack([(sizes > 0).double(), sums * sums, sums * sizes, sizes * sizes])
        self.products = self.products + torch.where(member, products, 0.0).sum(1)

    def compute(self) -> Float64[Tensor, "domains"]:
        """The mean loss of each domain, nan for a domain without tokens; ``errors`` are known then, too."""
        means = self.loss_sum / self.token_count
        count, squares, mixed, sizes = self.products
        # That of the ratio of two means, to first order, as ``document_loss.ratio`` has it.
        left = (squares - 2 * means * mixed + means**2 * sizes).clamp(min=0)
        self.errors = (left * count / (count - 1)).sqrt() / self.token_count
        self.errors[count < 2] = torch.nan
        return means


@torch.inference_mode()
def measure_domain_losses(
    model: nn.Module,
    batches: Iterable[DomainBatch],
    domains: Sequence[str],
    documents: DocumentLosses | None = None,
) -> dict[str, float]:
    """The losses of ``model``, by domain, in nats per token; its mode is left as it was.

    They are means over the tokens that are predicted. A domain without tokens is nan. ``documents`` counts along.
    """
    training, device = model.training, next(model.parameters()).device
    metric = DomainLoss(len(domains)).to(device)
    model.eval()
    try:
        for batch in batches:
            here = {name: part.to(device) for name, part in batch.items() if isinstance(part, Tensor)}
            losses, targets = next_token_losses(model, model_inputs(here))
            metric.update(losses, targets, here["domain"])
            if documents is not None:
                documents.update(losses, targets, here)
    finally:
        model.train(training)
    means = (metric.loss_sum / metric.token_count).tolist()
    return dict(zip(domains, means, strict=True))


def mean_loss(losses: Mapping[str, float]) -> float:
    """The mean over domains, each counting the same; domains without tokens are left out."""
    finite = [loss for loss in losses.values() if not math.isnan(loss)]
    return sum(finite) / len(finite) if finite else math.nan


def reported(domains: Sequence[str], losses: Sequence[float]) -> dict[str, float]:
    """The numbers of a validation by the names that loggers and callbacks know them by, with their mean."""
    numbers = {f"loss/validation/{name}": loss for name, loss in zip(domains, losses, strict=True)}
    numbers["loss/validation/mean"] = mean_loss(dict(zip(domains, losses, strict=True)))
    return numbers
