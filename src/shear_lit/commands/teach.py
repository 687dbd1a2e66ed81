"""``shear-lit teach``: what a teacher says of each next token of prepared data, computed once and kept."""

from typing import TYPE_CHECKING, Literal

from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_folder
from shear_lit.models.choices import Device, KeptOfTeacher, Precision
from shear_lit.ranges import Count, CountFrom0, PositiveNumber

if TYPE_CHECKING:
    from shear_lit.commands.teaching import Taught


def teach(
    model: str,
    data: str,
    output: str,
    split: Literal["prune", "pretrain"] = "pretrain",
    method: KeptOfTeacher = "sampled",
    kept: Count = 64,
    temperature: PositiveNumber = 1.0,
    sequences_per_domain: CountFrom0 = 0,
    seed: int = 17,
    micro_batch: Count = 4,
    dtype: Precision = "float32",
    device: Device = "auto",
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> "Taught":
    """Run a teacher once over prepared data, and keep what it says of each next token (docs/distillation.md).

    Started again, also by several processes at once, it goes on with what is not yet there.

    Args:
        model: Local Hugging Face directory or hub name (organisation/model, or organisation/model@revision) of the
            teacher.
        data: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/.
        output: Directory of the cache: new, empty, or one to go on with.
        split: Documents that a run will train on: `prune` in stage 1, `pretrain` in stage 2.
        method: `sampled`: tokens that are drawn from the teacher's distribution, right on average; `top_k`: its most
            probable tokens, and the mass outside of them.
        kept: Tokens that are drawn or kept at each position.
        temperature: What logits are divided by; as `model.distillation` of the run has it.
        sequences_per_domain: How many sequences of each domain, in the order in which a run with this seed draws them;
            0: all.
        seed: Of the draws, and of the order of sequences; give it the run's `data.seed`.
        micro_batch: Sequences of one forward pass.
        dtype: What to compute in; probabilities are always float32.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        cross_document_attention: Whether a token may attend to earlier documents; as `data` of the run has it.
        remote: How data in remote storage is read.
    """
    check_folder(expanded(output), key="output")
    from shear_lit.commands.teaching import write_cache

    return write_cache(
        model,
        data,
        expanded(output),
        split=split,
        method=method,
        kept=int(kept),
        temperature=float(temperature),
        sequences_per_domain=sequences_per_domain,
        seed=seed,
        micro_batch=micro_batch,
        dtype=dtype,
        device=device,
        cross_document_attention=cross_document_attention,
        remote=remote,
    )
