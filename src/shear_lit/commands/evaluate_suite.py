"""``shear-lit evaluate --suite``: what a Hugging Face model makes of downstream tasks."""

from typing import TYPE_CHECKING, Literal

from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_folder
from shear_lit.models.choices import Device, Precision
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.commands.scoring import ResolvedSuite
    from shear_lit.evaluation.suites.results import SuiteScores


def evaluate_suite(
    suite: str,
    model: str | None = None,
    output: str | None = None,
    questions: Count | None = None,
    dtype: Literal["source"] | Precision = "source",
    device: Device = "auto",
    batch_size: Count | Literal["auto"] = "auto",
    cache: str | None = None,
    dry_run: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
) -> "SuiteScores | ResolvedSuite | None":
    """Ask a Hugging Face model the tasks of a suite, with lm-evaluation-harness: a figure and its error for each.

    Several processes that torchrun started share the questions; the figures do not depend on their number. Tasks that
    were measured before are not measured again. Exit code 3: a task could not be asked; it is named, the rest was.

    Args:
        suite: sheared-llama, open-llm-leaderboard-v1, quick, offline, or a YAML file: one task (`task`, `kind`,
            `data`), the harness's own YAML without code, or a list of `tasks`.
        model: Local Hugging Face directory or hub name (organisation/model, or organisation/model@revision).
        output: Folder to write into: results.json in the harness's own layout, results.md, every question with its
            answer, and scalars for TensorBoard.
        questions: At most so many questions of each single task, for a trial; null: what the suite says, or all.
        dtype: What to compute in; `source`: what the weights are stored in.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        batch_size: Requests of one forward pass; `auto`: 64 on a CUDA device and 8 elsewhere, halved until they fit.
        cache: Folder of what was measured before; null: `scores` in SHEAR_LIT_CACHE, or in ~/.cache/shear_lit.
        dry_run: Look every task up in the harness's registry, offline, and ask nothing.
    """
    if output is not None:
        check_folder(expanded(output), key="output")
    from shear_lit.commands.scoring import resolve_suite, score_suite

    if dry_run:
        return resolve_suite(suite)
    return score_suite(
        suite,
        model,
        output=None if output is None else expanded(output),
        questions=questions,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
        cache=None if cache is None else expanded(cache),
    )
