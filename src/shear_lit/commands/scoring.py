"""A suite of downstream tasks, looked up or asked: reads the suite, fetches its questions, opens the model, writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.measuring import chosen_device
from shear_lit.commands.questions import fetch_questions
from shear_lit.evaluation.suites.errors import SuiteError, check_harness
from shear_lit.evaluation.suites.kept import KeptResults
from shear_lit.evaluation.suites.measuring import measure_suite
from shear_lit.evaluation.suites.processes import first_batch_size, own_device, processes_of_environment
from shear_lit.evaluation.suites.published import published_table
from shear_lit.evaluation.suites.registry import Resolved, resolve
from shear_lit.evaluation.suites.results import (
    PARTIAL,
    SuiteScores,
    check_results_folder,
    scores_of,
)
from shear_lit.evaluation.suites.subject import ComputeDtype, subject_of
from shear_lit.evaluation.suites.suite import Suite, read_suite
from shear_lit.evaluation.tables import markdown_table
from shear_lit.models.choices import Device
from shear_lit.models.memory import stored_parameters
from shear_lit.models.source_files import pinned

PACKAGED = ("quick", "offline")
"""The shipped suites whose questions come in a package."""


@dataclass(frozen=True, kw_only=True)
class ResolvedSuite:
    """A suite, and what the harness has under the names of its tasks."""

    suite: Suite
    """The suite."""
    tasks: tuple[Resolved, ...]
    """Its tasks."""

    @property
    def exit_code(self) -> int:
        """Other than 0 where a task does not resolve."""
        return PARTIAL if any(each.problem for each in self.tasks) else 0

    def __str__(self) -> str:
        rows = [
            [
                *(each.task.name, str(each.shots), each.metric, each.task.asked.filter, each.version),
                *(str(len(each.leaves)), each.problem or "yes"),
            ]
            for each in self.tasks
        ]
        heads = ["task", "shots", "metric", "filter", "version", "single tasks", "resolves"]
        source = f"\n\nSource: {self.suite.source}" if self.suite.source else ""
        return f"# {self.suite.name}\n\n{markdown_table(heads, rows)}{source}"


def resolve_suite(name: str) -> ResolvedSuite:
    """Look every task of a suite up in the harness's registry; nothing is fetched but a suite's own questions.

    Raises:
        SuiteError, HarnessError: there is no such suite, or no harness.
    """
    check_harness()
    suite = suite_named(name)
    return ResolvedSuite(suite=suite, tasks=tuple(resolve(suite)))


def suite_named(name: str) -> Suite:
    """A suite, with its own questions fetched.

    Raises:
        SuiteError, HarnessError: there is no such suite, or no harness.
    """
    check_harness()
    return read_suite(name, questions_in=fetch_questions(default_cache()) if name in PACKAGED else None)


def score_suite(
    name: str,
    model: str | None,
    *,
    output: Path | None,
    questions: int | None,
    dtype: ComputeDtype,
    device: Device,
    batch_size: int | Literal["auto"],
    cache: Path | None,
) -> SuiteScores | None:
    """Ask a model the tasks of a suite (``evaluate_suite`` says what the arguments are); the first process returns it.

    Raises:
        SuiteError, HarnessError, SourceError, DataError: the suite or the model cannot be used.
    """
    check_harness()
    if model is None:
        raise SuiteError(
            "model is missing: a suite is asked of a model. Add --model DIRECTORY, or --dry_run to look the tasks up."
        )
    suite = suite_named(name)
    where = own_device(chosen_device(device))
    most = suite.questions if questions is None else int(questions)
    source = pinned(model)
    parameters = stored_parameters(source)
    with processes_of_environment() as processes:
        subject = subject_of(
            source,
            dtype=dtype,
            device=where,
            batch_size=first_batch_size(where) if batch_size == "auto" else int(batch_size),
            processes=processes,
            parameters=parameters,
        )
        if output is not None:
            check_results_folder(output, subject.fingerprint)
        kept = KeptResults((default_cache() / "scores") if cache is None else cache)
        outcomes = measure_suite(resolve(suite), subject, kept, questions=most, processes=processes)
        scores = scores_of(
            suite, subject, parameters, outcomes, questions=most, published=published_table(suite.name)
        )
        if output is not None and processes.first:
            scores.write(output)
    return scores if processes.first else None
