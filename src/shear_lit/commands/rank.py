"""``shear-lit rank``: order the units of a model without training it."""

from typing import TYPE_CHECKING, Literal

from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import OutputError, check_new_file
from shear_lit.models.choices import AxisName, Criterion, Device, Precision
from shear_lit.ranges import Count, CountFrom0

if TYPE_CHECKING:
    from shear_lit.commands.ranking import Ranking


def rank(
    source: str,
    output: str,
    criterion: Criterion | dict[AxisName, Criterion] = "default",
    data: str | None = None,
    split: Literal["prune", "pretrain"] = "prune",
    sequences_per_domain: Count = 16,
    sample: CountFrom0 = 0,
    dtype: Precision = "float32",
    device: Device = "auto",
    seed: int = 17,
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> "Ranking":
    """Order the units of a model by importance, on a little training text, and write the scores, and a page of them.

    Args:
        source: Local Hugging Face directory or hub name (organisation/model, or organisation/model@revision).
        output: File to write (scores.safetensors); it must be new, and not beside a model. The page is beside it.
        criterion: What orders the units: one for every axis that it can order, or a mapping from axes to theirs (axes
            that it does not name keep the default's). `default`: layers by `block_influence`, feed-forward
            units by `peak_to_peak`, other widths by `activation`.
            All axes: `fisher`, mean squared gradients of gates; `taylor`, the size of their mean; `weight`, sizes of
            weights; `random`, by lot; `activation`, sizes of activations, with `block_influence` for layers. Layers:
            `block_influence`, how far each turns the stream; `depth`, contiguous ones by the same; `loss`, the loss
            without each, greedily; `loss_window`, without contiguous ones. Feed-forward units: `peak_to_peak`, the
            range of weights times the size of activations. These and heads: `reconstruction`, the error that is left
            when the other units take over.
        data: Directory that `shear-lit prepare` wrote, or its address; `weight` and `random` need none.
        split: Documents to measure on; never those that a run validates on.
        sequences_per_domain: Sequences of each domain to measure on. They pass one at a time.
        sample: Which sample of the text: each number has other sequences.
        dtype: What to compute in.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        seed: Seed of the lot.
        cross_document_attention: Whether a token may attend to earlier documents; as `data` of the run has it.
        remote: How data in remote storage is read.
    """
    file = expanded(output)
    for path in (file, file.with_suffix(".html")):
        check_new_file(path, key="output", what="scores")
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
        sample=sample,
        dtype=dtype,
        device=device,
        seed=seed,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
