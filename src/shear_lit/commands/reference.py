"""``shear-lit reference``: the losses that each domain should reach, which the mixture follows."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_new_file
from shear_lit.models.choices import Device, Precision
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.commands.measuring import DomainLosses


@dataclass(frozen=True, kw_only=True)
class MeasuredReferences:
    """References that were written to a file."""

    output: str
    """The file."""
    measured: "DomainLosses"
    """What it says."""

    def __str__(self) -> str:
        return f"{self.measured}\nwritten to {self.output}"

    def on_terminal(self, *, width: int | None = None) -> str:
        """The same, drawn for a terminal."""
        return f"{self.measured.on_terminal(width=width)}\nwritten to {self.output}"


def measure(
    model: str,
    data: str,
    output: str,
    sequences_per_domain: Count = 128,
    micro_batch: Count = 4,
    dtype: Precision = "float32",
    device: Device = "auto",
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> MeasuredReferences | None:
    """Measure a model's losses by domain and write them as the references that `fit` reads.

    Several processes that torchrun started share the text; the first one writes.

    Args:
        model: Local Hugging Face directory or hub name (organisation/model, or organisation/model@revision) of the
            model to measure.
        data: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/.
        output: YAML file to write (references.yaml).
        sequences_per_domain: Validation sequences of each domain; use the number that the run validates on.
        micro_batch: Sequences of one forward pass.
        dtype: What to compute in; losses are always summed in float64.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        cross_document_attention: Whether a token may attend to earlier documents; as `data` of the run has it.
        remote: How data in remote storage is read.
    """
    path = expanded(output)
    check_new_file(path, key="output", what="references")
    from shear_lit.commands.measuring import measure_domains
    from shear_lit.data.order.references import References, write_references
    from shear_lit.evaluation.prepared import EvaluationError

    measured = measure_domains(
        model,
        data,
        sequences_per_domain=sequences_per_domain,
        micro_batch=micro_batch,
        dtype=dtype,
        device=device,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
    if measured is None:
        return None
    undefined = [name for name, loss in measured.losses.items() if not math.isfinite(loss)]
    if undefined:
        raise EvaluationError(
            f"{model!r}: the loss of {', '.join(undefined)} is not finite in {dtype}: it is no reference. "
            f"Use --dtype float32, and look at the data of that domain.",
            key="model.source",
        )
    references = References(
        source=measured.model,
        tokenizer=measured.tokenizer,
        losses=dict(measured.losses),
        cross_document_attention=cross_document_attention,
        errors=known_errors(measured),
    )
    write_references(path, references)
    return MeasuredReferences(output=str(path), measured=measured)


def known_errors(measured: "DomainLosses") -> dict[str, float]:
    """Standard errors of the losses by domain; none where one of them is not known."""
    errors = {name: found.stderr for name, found in measured.figures.items()}
    return errors if all(map(math.isfinite, errors.values())) else {}
