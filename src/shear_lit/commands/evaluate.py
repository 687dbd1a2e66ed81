"""``shear-lit evaluate``: how well a Hugging Face model predicts the validation text of every domain."""

from typing import TYPE_CHECKING

from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_file, write_file
from shear_lit.models.choices import Device, Precision
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.commands.measuring import DomainLosses


def evaluate(
    model: str,
    data: str,
    sequences_per_domain: Count = 128,
    micro_batch: Count = 4,
    dtype: Precision = "float32",
    device: Device = "auto",
    output: str | None = None,
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> "DomainLosses | None":
    """Measure the losses of a Hugging Face model on the validation split of prepared data, by domain.

    Several processes that torchrun started share the text. `--suite` asks downstream tasks instead: `shear-lit
    evaluate --suite quick --help`.

    Args:
        model: Local Hugging Face directory or hub name (organisation/model, or organisation/model@revision).
        data: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/.
        sequences_per_domain: Sequences of each domain to measure on; all of them where a domain has fewer.
        micro_batch: Sequences of one forward pass.
        dtype: What to compute in; losses are always summed in float64.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        output: JSON file to write the losses to, besides printing them.
        cross_document_attention: Whether a token may attend to earlier documents of its packed sequence.
        remote: How data in remote storage is read.
    """
    file = None if output is None else expanded(output)
    if file is not None:
        check_file(file, key="output")
    from shear_lit.commands.measuring import measure_domains

    losses = measure_domains(
        model,
        data,
        sequences_per_domain=sequences_per_domain,
        micro_batch=micro_batch,
        dtype=dtype,
        device=device,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
    if file is not None and losses is not None:
        write_file(file, losses.to_json())
    return losses
