"""``shear-lit compare``: several models in one table, with the errors of what sets them apart."""

from typing import TYPE_CHECKING, Literal

from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_folder
from shear_lit.models.choices import Device, Precision
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.evaluation.comparison import Comparison


def compare(
    models: list[str],
    data: str | list[str] | None = None,
    suite: str | None = None,
    against: str | None = None,
    output: str | None = None,
    sequences_per_domain: Count = 32,
    micro_batch: Count = 4,
    questions: Count | None = None,
    speed: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    dtype: Literal["source"] | Precision = "float32",
    device: Device = "auto",
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    cache: str | None = None,
    cards: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
) -> "Comparison":
    """Compare models: sizes, memory, speeds, losses by domain, bits per byte, downstream tasks, what training took.

    Differences stand with 95 % intervals, by paired bootstrap over the documents and questions that both were given.
    Losses and tasks that were measured before are not measured again.

    Args:
        models: Local Hugging Face directories, hub names, or runs that have an export in `hf`. The source first.
        data: Directory that `shear-lit prepare` wrote, or a list of them: each model is measured on the first whose
            tokenizer it has. Or files of text, each a domain, which every model cuts into tokens of its own: their
            bits per byte can be compared whatever the tokenizers.
        suite: Downstream tasks, as `shear-lit evaluate --suite` takes them.
        against: The model that the others are compared with; `all`: each with each; null: the first.
        output: Folder to write compare.md and compare.json into, besides printing.
        sequences_per_domain: Sequences of each domain to measure losses on; of files, documents.
        micro_batch: Sequences of one forward pass; documents of files go one by one.
        questions: At most so many questions of each task; null: what the suite says, or all.
        speed: Whether to time reading and writing, at 1 and 8 sequences; all models are in memory for it.
        dtype: What to compute in; `source`: what the weights are stored in.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        cross_document_attention: Whether a token may attend to earlier documents of its packed sequence.
        cache: Folder of what was measured before; null: `scores` in SHEAR_LIT_CACHE, or in ~/.cache/shear_lit.
        cards: Whether the comparison goes into the model cards, too, of those that `shear-lit export` wrote.
    """
    folder = None if output is None else expanded(output)
    if folder is not None:
        check_folder(folder, key="output")
    from shear_lit.commands.comparing import Wishes, compare_models

    wishes = Wishes(
        data=(data,) if isinstance(data, str) else tuple(data or ()),
        suite=suite,
        against=against,
        sequences=int(sequences_per_domain),
        micro_batch=int(micro_batch),
        questions=questions,
        speed=speed,
        dtype=dtype,
        device=device,
        cross_document_attention=cross_document_attention,
        cards=cards,
    )
    return compare_models(models, wishes, folder, None if cache is None else expanded(cache))
