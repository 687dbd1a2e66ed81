"""Next-token losses by domain: every token counts the same, sums are kept in float64."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from shear_lit.data.serving.batch import DomainBatch, model_inputs, predicted_tokens

_CHUNK_LOGITS = 1 << 24  # 64 MiB of float32 at a time


def token_losses(
    logits: Float[Tensor, "sequences tokens vocabulary"], tokens: Int64[Tensor, "sequences tokens"]
) -> Float32[Tensor, "sequences predicted"]:
    """The loss of each token but the first, in nats, computed in float32.

    It goes through the logits in pieces, without a second copy of them. Not for training: it has no gradient.
    """
    with torch.no_grad():
        sequences, length, vocabulary = logits.shape
        losses = torch.empty(sequences, length - 1, dtype=torch.float32, device=logits.device)
        piece = max(1, _CHUNK_LOGITS // vocabulary)
        for row in range(sequences):
            for start in range(0, length - 1, piece):
                end = min(start + piece, length - 1)
                losses[row, start:end] = functional.cross_entropy(
                    logits[row, start:end].float(), tokens[row, start + 1 : end + 1], reduction="none"
                )
        return losses


class DomainLoss(Metric):
    """Mean next-token loss of each domain, in nats per token, over all updates and all processes.

    ``domain`` = -1 marks a sequence that only fills a batch up: it counts nowhere.
    """

    full_state_update = False
    higher_is_better = False
    loss_sum: Tensor
    token_count: Tensor

    def __init__(self, domains: int) -> None:
        """Measure ``domains`` domains, numbered from 0."""
        super().__init__()
        for state in ("loss_sum", "token_count"):
            self.add_state(state, torch.zeros(domains, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        logits: Float[Tensor, "sequences tokens vocabulary"],
        tokens: Int64[Tensor, "sequences tokens"],
        domain: Int64[Tensor, "sequences"],
        predicted: Bool[Tensor, "sequences tokens"] | None = None,
    ) -> None:
        """Count one batch: the tokens that are ``predicted``, or all but the first of each sequence."""
        losses = token_losses(logits, tokens).double()
        counts: Tensor | int = losses.shape[1]
        if predicted is not None:
            inside = predicted[:, 1:]
            losses, counts = torch.where(inside, losses, 0.0), inside.sum(1)[:, None]
        # A comparison instead of a scatter: the same sums in the same order on every device, and no wait for one.
        member = domain[:, None] == torch.arange(len(self.loss_sum), device=domain.device)
        # Not in place: after a reset in inference mode the sums could not be changed outside of it.
        self.loss_sum = self.loss_sum + torch.where(member, losses.sum(1)[:, None], 0.0).sum(0)
        self.token_count = self.token_count + (member * counts).sum(0)

    def compute(self) -> Float64[Tensor, "domains"]:
        """The mean loss of each domain; nan for a domain without tokens."""
        return self.loss_sum / self.token_count


@torch.inference_mode()
def measure_domain_losses(
    model: nn.Module, batches: Iterable[DomainBatch], domains: Sequence[str]
) -> dict[str, float]:
    """The losses of ``model``, by domain, in nats per token; its mode is left as it was.

    They are means over the tokens that are predicted. A domain without tokens is nan.
    """
    training, device = model.training, next(model.parameters()).device
    metric = DomainLoss(len(domains)).to(device)
    model.eval()
    try:
        for batch in batches:
            here = {name: part.to(device) for name, part in batch.items() if isinstance(part, Tensor)}
            inputs = model_inputs(here)
            del inputs["labels"]
            logits = model(**inputs, use_cache=False).logits
            metric.update(logits, here["tokens"], here["domain"], predicted_tokens(here))
    finally:
        model.train(training)
    losses = (metric.loss_sum / metric.token_count).tolist()
    return dict(zip(domains, losses, strict=True))


def mean_loss(losses: Mapping[str, float]) -> float:
    """The mean over domains, each counting the same; domains without tokens are left out."""
    finite = [loss for loss in losses.values() if not math.isnan(loss)]
    return sum(finite) / len(finite) if finite else math.nan


def reported(domains: Sequence[str], losses: Sequence[float]) -> dict[str, float]:
    """The numbers of a validation by the names that loggers and callbacks know them by, with their mean."""
    numbers = {f"loss/validation/{name}": loss for name, loss in zip(domains, losses, strict=True)}
    numbers["loss/validation/mean"] = mean_loss(dict(zip(domains, losses, strict=True)))
    return numbers
