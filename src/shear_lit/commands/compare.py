"""``shear-lit compare``: several models in one table, with the errors of what sets them apart."""

from typing import TYPE_CHECKING, Literal

from shear_lit.commands.failures import UsageError
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_folder
from shear_lit.models.choices import Device, Precision
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.evaluation.comparison import Comparison

NEW_TOKENS = 256
"""Tokens of an answer at most, unless it is said otherwise."""


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
    prompts: str | None = None,
    max_new_tokens: Count = NEW_TOKENS,
    judge: str | None = None,
    judge_model: str | None = None,
    judge_key_variable: str | None = None,
    cache: str | None = None,
    cards: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
) -> "Comparison":
    """Compare models: sizes, memory, speeds, losses by domain, bits per byte, tasks, answers, what training took.

    Differences stand with 95 % intervals, by paired bootstrap over documents, questions and prompts that both were
    given. What was measured, or judged, before is not asked again.

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
        questions: At most so many questions of each task, and prompts; null: what the suite says, or all.
        speed: Whether to time reading and writing, at 1 and 8 sequences; all models are in memory for it.
        dtype: What to compute in; `source`: what the weights are stored in.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        cross_document_attention: Whether a token may attend to earlier documents of its packed sequence.
        prompts: File of conversations (JSON lines, the forms of `prepare --format chat`) whose last message is a good
            answer, or of {"prompt": ..., "reference": ...}: how likely a model finds it, and what it answers itself.
        max_new_tokens: Tokens of an answer to a prompt at most.
        judge: Address of an OpenAI-compatible endpoint, as http://127.0.0.1:8000/v1, that is asked which of two
            answers is better, in both orders. It is sent the prompts and the answers.
        judge_model: What the endpoint calls the model that judges.
        judge_key_variable: Name of the environment variable that holds the endpoint's key, if it needs one; null:
            OPENAI_API_KEY.
        cache: Folder of what was measured before; null: `scores` in SHEAR_LIT_CACHE, or in ~/.cache/shear_lit.
        cards: Whether the comparison goes into the model cards, too, of those that `shear-lit export` wrote.
    """
    folder = None if output is None else expanded(output)
    if folder is not None:
        check_folder(folder, key="output")
    judging = {"judge_model": judge_model, "judge": judge}
    if (judge is None) != (judge_model is None) or (judge is not None and prompts is None):
        given = next(name for name, value in judging.items() if value is not None)
        raise UsageError(
            f"{given}={judging[given]!r}: a judge is an address (judge), a model there (judge_model), and prompts to "
            f"judge the answers to. Add what is missing, or leave it out."
        )
    if prompts is None and max_new_tokens != NEW_TOKENS:
        raise UsageError(
            f"max_new_tokens={max_new_tokens} has no effect without prompts, which are answered. Remove it, or add "
            f"--prompts FILE."
        )
    if judge is None and judge_key_variable is not None:
        raise UsageError(
            f"judge_key_variable={judge_key_variable} has no effect without judge, for which the key is. Remove it, or "
            f"add --judge URL."
        )
    from shear_lit.commands.comparing import Wishes, compare_models
    from shear_lit.evaluation.answers.judge import KEY_VARIABLE, Judge

    asked = None
    if judge is not None and judge_model is not None:
        asked = Judge(url=judge, model=judge_model, variable=judge_key_variable or KEY_VARIABLE)
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
        prompts=prompts,
        new_tokens=int(max_new_tokens),
        judge=asked,
    )
    return compare_models(models, wishes, folder, None if cache is None else expanded(cache))
