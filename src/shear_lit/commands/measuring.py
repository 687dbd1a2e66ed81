"""The losses of a Hugging Face model on the validation text of every domain."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from shear_lit.data.serving.batch import DomainBatch
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.data.tokens.token_bytes import token_bytes
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.evaluation.document_loss import DocumentLosses, DomainFigures
from shear_lit.evaluation.domain_loss import mean_loss, measure_domain_losses
from shear_lit.evaluation.prepared import ValidationText, open_validation_text
from shear_lit.evaluation.suites.processes import Processes, own_device, processes_of_environment
from shear_lit.evaluation.tables import Table, drawn, markdown_table
from shear_lit.mistakes import Mistake
from shear_lit.models.choices import Device, Precision
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.huggingface import read_model
from shear_lit.progress import watched


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
    figures: Mapping[str, DomainFigures] = field(default_factory=dict)
    """The same with standard errors, by document, and in bits per byte, by domain."""
    clusters: str = "documents"
    """What standard errors are over: ``documents``, or ``sequences`` where it is not known where documents begin."""
    documents: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Loss, tokens and bytes of every document, by domain; in no file."""
    text: str = ""
    """Fingerprint of the prepared data."""
    dtype: str = "float32"
    """What was computed in."""

    def __str__(self) -> str:
        title = f"{self.model} ({self.parameters:,} parameters) on {self.data}"
        table = markdown_table(self._header(), self._rows())
        return f"{title}\n\n{table}\n\n± one standard error, over {self.clusters}"

    def on_terminal(self, *, width: int | None = None) -> str:
        """The same, drawn for a terminal."""
        title = f"{self.model} ({self.parameters:,} parameters) on {self.data}"
        note = f"± one standard error, over {self.clusters}"
        return drawn([Table(title=title, header=self._header(), rows=self._rows(), note=note)], width=width)

    def _header(self) -> tuple[str, ...]:
        return ("domain", "nats per token", "by document", "bits per byte", self.clusters)

    def _rows(self) -> tuple[tuple[str, ...], ...]:
        rows = [(name, *self._row(name, loss)) for name, loss in self.losses.items()]
        return (*rows, ("mean", f"{mean_loss(self.losses):.4f}", "", "", ""))

    def _row(self, name: str, loss: float) -> list[str]:
        found = self.figures.get(name)
        if found is None:
            return [f"{loss:.4f}", "", "", ""]
        bits = f"{found.bits_per_byte:.4f} ± {found.bits_per_byte_stderr:.4f}"
        return [
            f"{loss:.4f} ± {found.stderr:.4f}",
            f"{found.loss_by_document:.4f} ± {found.stderr_by_document:.4f}",
            "unknown" if math.isnan(found.bits_per_byte) else bits,
            f"{found.documents:,}",
        ]

    def to_json(self) -> str:
        """What a file says of them."""
        return json.dumps(asdict(replace(self, documents={})), indent=1) + "\n"


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
) -> DomainLosses | None:
    """Measure a model on the validation split of prepared data (``evaluate`` says what the arguments are).

    Of several processes, each measures a part, and the first returns the whole.

    Raises:
        SourceError, DataError, EvaluationError: the model or the data cannot be read, or they do not fit.
    """
    where = own_device(chosen_device(device))
    with processes_of_environment() as processes:
        text = open_validation_text(
            data,
            model,
            sequences_per_domain=sequences_per_domain,
            micro_batch=micro_batch,
            cross_document_attention=cross_document_attention,
            remote=remote,
            processes=processes,
        )
        losses = _measured(text, data, dtype, where, processes)
    return losses if processes.first else None


def _measured(
    text: ValidationText, data: str, dtype: Precision, where: torch.device, processes: Processes
) -> DomainLosses:
    network = read_model(text.model, dtype=getattr(torch, dtype)).to(where)  # type: ignore[arg-type]
    documents = DocumentLosses(token_bytes(tokenizer_of(text.model)) if has_tokenizer(text.model) else None)
    losses = measure_domain_losses(network, watched_batches(text), text.domains, documents)
    if processes.size > 1:
        documents.take(processes.gather(documents.sums()))
        losses = {name: documents.figures(number).loss for number, name in enumerate(text.domains)}
    return DomainLosses(
        model=text.model,
        data=data,
        tokenizer=text.tokenizer,
        parameters=network.num_parameters(),
        losses=losses,
        figures={name: documents.figures(number) for number, name in enumerate(text.domains)},
        clusters="documents" if text.knows_documents else "sequences",
        documents={name: documents.by_document(number) for number, name in enumerate(text.domains)},
        text=text.data,
        dtype=dtype,
    )


def watched_batches(text: ValidationText) -> Iterable[DomainBatch]:
    """The batches of a text, with progress."""
    return watched(text.batches, "Measuring losses", "batch")


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
