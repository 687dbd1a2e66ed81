"""``shear-lit evaluate``: how well a Hugging Face model predicts the validation text of every domain."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from shear_lit.data.remote import REMOTE, RemoteSettings
from shear_lit.evaluation.domain_loss import mean_loss, measure_domain_losses
from shear_lit.evaluation.prepared import open_validation_text
from shear_lit.models.huggingface import Precision, read_model

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class DomainLosses:
    """Losses of a model by domain."""

    model: str
    """Name or directory of the model."""
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


def evaluate(
    model: str,
    data: str,
    sequences_per_domain: int = 128,
    micro_batch: int = 4,
    dtype: Precision = "float32",
    device: Device = "auto",
    output: str | None = None,
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> DomainLosses:
    """Measure the losses of a Hugging Face model on the validation split of prepared data, by domain.

    Args:
        model: Local Hugging Face directory or hub name.
        data: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/.
        sequences_per_domain: Sequences of each domain to measure on; all of them where a domain has fewer.
        micro_batch: Sequences of one forward pass.
        dtype: What to compute in; losses are always summed in float64.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        output: JSON file to write the losses to, besides printing them.
        cross_document_attention: Whether a token may attend to earlier documents of its packed sequence.
        remote: How data in remote storage is read.
    """
    text = open_validation_text(
        data,
        model,
        sequences_per_domain=sequences_per_domain,
        micro_batch=micro_batch,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
    network = read_model(model, dtype=getattr(torch, dtype)).to(torch.device(chosen_device(device)))  # type: ignore[arg-type]
    result = DomainLosses(
        model=model,
        data=data,
        tokenizer=text.tokenizer,
        parameters=network.num_parameters(),
        losses=measure_domain_losses(network, text.batches, text.domains),
    )
    if output is not None:
        _write_json(Path(output).expanduser(), result)
    return result


def chosen_device(device: Device) -> str:
    """The device that is meant."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _write_json(path: Path, result: DomainLosses) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
