"""``shear-lit reference``: the losses that each domain should reach, which the mixture follows."""

import math
from dataclasses import dataclass
from pathlib import Path

from shear_lit.commands.evaluate import Device, DomainLosses, evaluate
from shear_lit.data.references import References, write_references
from shear_lit.data.remote import REMOTE, RemoteSettings
from shear_lit.evaluation.prepared import EvaluationError
from shear_lit.models.huggingface import Precision


@dataclass(frozen=True, kw_only=True)
class MeasuredReferences:
    """References that were written to a file."""

    output: str
    """The file."""
    measured: DomainLosses
    """What it says."""

    def __str__(self) -> str:
        return f"{self.measured}\nwritten to {self.output}"


def measure(
    source: str,
    data: str,
    output: str,
    sequences_per_domain: int = 128,
    micro_batch: int = 4,
    dtype: Precision = "float32",
    device: Device = "auto",
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> MeasuredReferences:
    """Measure a model's losses by domain and write them as the references that `fit` reads.

    Args:
        source: Local Hugging Face directory or hub name of the model to measure.
        data: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/.
        output: YAML file to write (references.yaml).
        sequences_per_domain: Validation sequences of each domain; use the number that the run validates on.
        micro_batch: Sequences of one forward pass.
        dtype: What to compute in; losses are always summed in float64.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        cross_document_attention: Whether a token may attend to earlier documents; as `data` of the run has it.
        remote: How data in remote storage is read.
    """
    path = Path(output).expanduser()
    if path.exists():
        raise EvaluationError(
            f"output={output!r} exists: references are not overwritten. Choose another file, or remove it."
        )
    measured = evaluate(
        source,
        data,
        sequences_per_domain,
        micro_batch,
        dtype,
        device,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
    undefined = [name for name, loss in measured.losses.items() if not math.isfinite(loss)]
    if undefined:
        raise EvaluationError(
            f"source={source!r}: the loss of {', '.join(undefined)} is not finite in {dtype}: it is no reference. "
            f"Use --dtype float32, and look at the data of that domain."
        )
    references = References(
        source=measured.model,
        tokenizer=measured.tokenizer,
        losses=dict(measured.losses),
        cross_document_attention=cross_document_attention,
    )
    write_references(path, references)
    return MeasuredReferences(output=str(path), measured=measured)


COMMANDS = {"measure": measure}
"""The sub-commands of ``reference``."""
