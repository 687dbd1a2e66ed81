"""``shear-lit rank``: order the units of a model without training it."""

from typing import TYPE_CHECKING, Literal

from shear_lit.commands.failures import UsageError
from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import OutputError, check_new_file
from shear_lit.models.choices import Criterion, Device
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.commands.ranking import Ranking

_WITHOUT_DATA = ("weight", "random")


def rank(
    source: str,
    output: str,
    criterion: Criterion = "fisher",
    data: str | None = None,
    split: Literal["prune", "pretrain"] = "prune",
    sequences_per_domain: Count = 8,
    micro_batch: Count = 4,
    device: Device = "auto",
    seed: int = 17,
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> "Ranking":
    """Order the units of a model by importance, on a little training text, and write the scores.

    Args:
        source: Local Hugging Face directory or hub name (organisation/model, or organisation/model@revision).
        output: File to write (scores.safetensors); it must be new, and not beside a model.
        criterion: `fisher`: mean squared gradients of gates; `taylor`: the size of their mean; `activation`: sizes of
            activations, and block influence for layers; `weight`: sizes of weights; `depth`: contiguous layers by
            what they change, and nothing else; `random`: by lot.
        data: Directory that `shear-lit prepare` wrote, or its address; `weight` and `random` need none.
        split: Documents to measure on; never those that a run validates on.
        sequences_per_domain: Sequences of each domain to measure on.
        micro_batch: Sequences of one pass.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        seed: Seed of the lot.
        cross_document_attention: Whether a token may attend to earlier documents; as `data` of the run has it.
        remote: How data in remote storage is read.
    """
    file = expanded(output)
    check_new_file(file, key="output", what="scores")
    if (data is None) != (criterion in _WITHOUT_DATA):
        raise UsageError(
            f"data={data!r}: criterion={criterion} is measured on text. Name a directory of `shear-lit prepare`."
            if data is None
            else f"data={data!r} has no effect: criterion={criterion} needs no text. Remove it."
        )
    from shear_lit.commands.ranking import rank_units
    from shear_lit.models.huggingface import CONFIG
    from shear_lit.models.writing import WEIGHT_SUFFIXES

    if (file.parent / CONFIG).is_file() and file.suffix in WEIGHT_SUFFIXES:
        raise OutputError(
            f"{output!r} lies in the directory of a model, and programs take every {file.suffix} there for weights. "
            f"Choose another directory.",
            key="output",
        )
    return rank_units(
        source,
        file,
        criterion,
        data=data,
        split=split,
        sequences_per_domain=sequences_per_domain,
        micro_batch=micro_batch,
        device=device,
        seed=seed,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
