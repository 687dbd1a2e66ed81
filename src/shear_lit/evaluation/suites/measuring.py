"""A suite, measured task by task: what was measured before is read, what cannot be reached is named."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shear_lit.disk.records import one_line
from shear_lit.evaluation.suites.asking import ask_task, asked_fingerprint, load_task
from shear_lit.evaluation.suites.kept import KeptResults, Measured
from shear_lit.evaluation.suites.processes import ALONE, Processes
from shear_lit.evaluation.suites.registry import Resolved

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is asked."""

    name: str
    """A directory, or ``organisation/model@commit``."""
    fingerprint: str
    """A hash of its weights and its tokenizer."""
    dtype: str
    """What it computes in."""
    open: Callable[[], Any]
    """Reads it, as the harness takes models; called once, and only if something has to be asked."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one task of a suite."""

    resolved: Resolved
    """The task."""
    results: dict[str, dict[str, Any]]
    """What the harness found, by single task; empty where it was not asked."""
    problem: str = ""
    """Why it was not asked."""

    @property
    def value(self) -> float:
        """The figure that counts; nan where there is none."""
        return self.figure(self.resolved.key)

    @property
    def stderr(self) -> float:
        """Its standard error; nan where there is none."""
        metric, _, chosen = self.resolved.key.partition(",")
        values, sizes = self._numbers(f"{metric}_stderr,{chosen}")
        if not values or any(map(math.isnan, values)):
            return math.nan
        if len(values) == 1:
            return values[0]
        from lm_eval.api.metrics import pooled_sample_stderr, unweighted_mean_stderr

        pooled = (
            pooled_sample_stderr(values, sizes) if self.resolved.by_size else unweighted_mean_stderr(values)
        )
        return float(pooled)

    @property
    def questions(self) -> int:
        """Questions that were asked."""
        return sum(self._numbers(self.resolved.key)[1])

    @property
    def question_values(self) -> NDArray[np.float64]:
        """What each question adds to the figure, in their order; empty where the figure is no mean over questions."""
        metric, _, chosen = self.resolved.key.partition(",")
        samples = [each for leaf, result in self.results.items() for each in result["samples"][leaf]]
        found = [each.get(metric) for each in samples if each.get("filter", chosen) == chosen]
        return np.array(
            found if all(isinstance(value, int | float) for value in found) else [], dtype=np.float64
        )

    def figure(self, key: str) -> float:
        """A figure by the harness's name of it, over all single tasks of a group."""
        values, sizes = self._numbers(key)
        if not values:
            return math.nan
        if len(values) == 1:
            return values[0]
        from lm_eval.api.metrics import aggregate_subtask_metrics

        return float(aggregate_subtask_metrics(values, sizes, self.resolved.by_size))

    def _numbers(self, key: str) -> tuple[list[float], list[int]]:
        figures = [result["results"][leaf] for leaf, result in self.results.items()]
        values = [each.get(key, math.nan) for each in figures]
        numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
        return numbers, [int(each["sample_len"]) for each in figures]


def measure_suite(
    resolved: Sequence[Resolved],
    subject: Subject,
    kept: KeptResults,
    *,
    questions: int | None,
    processes: Processes = ALONE,
) -> list[Outcome]:
    """Ask a model all tasks of a suite, in their order; every process returns the same.

    ``questions``: at most so many of each single task; none: all of them.
    """
    asking = _Asking(subject, kept, questions, processes)
    outcomes = []
    for number, each in enumerate(resolved, start=1):
        began = time.monotonic()
        outcomes.append(outcome := asking.outcome(each))
        asking.log(outcome, number, len(resolved), time.monotonic() - began)
    return outcomes


class _Asking:
    """What goes on from task to task: the model, once it was read."""

    def __init__(
        self, subject: Subject, kept: KeptResults, questions: int | None, processes: Processes
    ) -> None:
        self.subject, self.kept, self.questions, self.processes = subject, kept, questions, processes
        self.model: Any = None
        self.began = time.monotonic()

    def outcome(self, resolved: Resolved) -> Outcome:
        results: dict[str, dict[str, Any]] = {}
        problem = resolved.problem
        for leaf in () if problem else resolved.leaves:
            found, problem = self._asked(resolved, leaf)
            if found is None:
                break
            results[leaf] = found
        return Outcome(resolved=resolved, results={} if problem else results, problem=problem)

    def _asked(self, resolved: Resolved, leaf: str) -> tuple[dict[str, Any] | None, str]:
        loaded, problem = self._loaded(resolved, leaf)
        if problem:
            return None, problem
        measured = Measured(
            model=self.subject.fingerprint,
            dtype=self.subject.dtype,
            task=leaf,
            asked=asked_fingerprint(resolved.task, loaded),
            questions=self.questions,
        )
        found = self.processes.from_first(self.kept.read(measured) if self.processes.first else None)
        if found is None:
            if self.model is None:
                self.model = self.subject.open()
            found = ask_task(self.model, leaf, loaded, questions=self.questions)
            if self.processes.first:
                self.kept.write(measured, found)
        return found, ""

    def _loaded(self, resolved: Resolved, leaf: str) -> tuple[Any, str]:
        """A task with its questions, and why there are none; the first process fetches them for all."""
        loaded, problem = self._tried(resolved, leaf) if self.processes.first else (None, "")
        problem = self.processes.from_first(problem)
        if not problem and not self.processes.first:
            loaded, problem = self._tried(resolved, leaf)
        return loaded, next(filter(None, self.processes.gather(problem)), "")

    def _tried(self, resolved: Resolved, leaf: str) -> tuple[Any, str]:
        try:
            return load_task(resolved, leaf), ""
        except (
            Exception
        ) as error:  # the network, the hub and the libraries that read have errors of their own
            return None, f"its questions cannot be reached ({one_line(error)})"

    def log(self, outcome: Outcome, number: int, count: int, seconds: float) -> None:
        """Say what was found, and how long the rest may take."""
        if not self.processes.first:
            return
        left = (time.monotonic() - self.began) / number * (count - number)
        said = (
            outcome.problem or f"{outcome.value:.4f} ± {outcome.stderr:.4f} ({outcome.questions:,} questions)"
        )
        _log.info(
            "%d of %d, %s: %s, %.0f s; %s left",
            number,
            count,
            outcome.resolved.task.name,
            said,
            seconds,
            _time(left),
        )


def _time(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
