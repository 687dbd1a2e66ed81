"""The losses of a Hugging Face model on the validation text of every domain."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.evaluation.domain_loss import mean_loss, measure_domain_losses
from shear_lit.evaluation.prepared import open_validation_text
from shear_lit.mistakes import Mistake
from shear_lit.models.choices import Device, Precision
from shear_lit.models.huggingface import read_model


class DeviceError(Mistake):
    """A device that this machine does not have."""


@dataclass(frozen=True, kw_only=True)
class DomainLosses:
    """Losses of a model by domain."""

    model: str
    """Directory of the model, or ``organisation/model@commit``."""
    data: str
    """Directory of the prepared data."""
    tokenizer: str
    """Fingerprint of the tokenizer that made the data's tokens."""
    parameters: int
    """Parameters of the model."""
    losses: Mapping[str, float]
    """Nats per token, by domain."""

    def __str__(self) -> str:
        width = max(len(name) for name in ("domain", "mean", *self.losses))
        rows = [f"{name:<{width}}  {loss:8.4f}" for name, loss in self.losses.items()]
        header = f"{'domain':<{width}}  nats per token"
        title = f"{self.model} ({self.parameters:,} parameters) on {self.data}"
        return "\n".join([title, header, *rows, f"{'mean':<{width}}  {mean_loss(self.losses):8.4f}"])

    def to_json(self) -> str:
        """What a file says of them."""
        return json.dumps(asdict(self), indent=1) + "\n"


def measure_domains(
    model: str,
    data: str,
    *,
    sequences_per_domain: int,
    micro_batch: int,
    dtype: Precision,
    device: Device,
    cross_document_attention: bool,
    remote: RemoteSettings,
) -> DomainLosses:
    """Measure a model on the validation split of prepared data (``evaluate`` says what the arguments are).

    Raises:
        SourceError, DataError, EvaluationError: the model or the data cannot be read, or they do not fit.
    """
    where = chosen_device(device)
    text = open_validation_text(
        data,
        model,
        sequences_per_domain=sequences_per_domain,
        micro_batch=micro_batch,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
    network = read_model(text.model, dtype=getattr(torch, dtype)).to(where)  # type: ignore[arg-type]
    return DomainLosses(
        model=text.model,
        data=data,
        tokenizer=text.tokenizer,
        parameters=network.num_parameters(),
        losses=measure_domain_losses(network, text.batches, text.domains),
    )


def chosen_device(device: Device) -> torch.device:
    """The device that is meant.

    Raises:
        DeviceError: there is none here.
    """
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    if not available[device]:
        raise DeviceError(
            f"{device}: torch {torch.__version__} finds no such device here. Use --device cpu, or auto for the best "
            f"that there is.",
            key="device",
        )
    return torch.device(device)
