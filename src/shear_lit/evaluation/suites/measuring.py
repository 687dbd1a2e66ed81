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
    waiting = [asking.prepared(each) for each in resolved]
    outcomes = []
    for number, each in enumerate(waiting, start=1):
        began = time.monotonic()
        outcomes.append(outcome := asking.outcome(each))
        left = asking.time_left([later for later in waiting[number:] if not later.problem])
        asking.log(outcome, f"{number} of {len(waiting)}", time.monotonic() - began, left)
    return outcomes


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A task whose questions are there, or why they are not."""

    resolved: Resolved
    problem: str
    loaded: dict[str, Any]
    """The harness's task, by single task."""
    kept: dict[str, dict[str, Any]]
    """What was found before, by single task."""
    unasked: int
    """Questions that have to be asked."""


class _Asking:
    """What goes on from task to task: the model, once it was read."""

    def __init__(
        self, subject: Subject, kept: KeptResults, questions: int | None, processes: Processes
    ) -> None:
        self.subject, self.kept, self.questions, self.processes = subject, kept, questions, processes
        self.model: Any = None
        self.asked, self.seconds = 0, 0.0
        """Questions that were asked here, and how long they took."""

    def prepared(self, resolved: Resolved) -> _Waiting:
        """Load a task, and what was found of it before: what is left to ask is known before anything is asked."""
        problem, loaded = resolved.problem, dict[str, Any]()
        for leaf in () if problem else resolved.leaves:
            loaded[leaf], problem = self._loaded(resolved, leaf)
            if problem:
                break
        if problem:
            return _Waiting(resolved=resolved, problem=problem, loaded={}, kept={}, unasked=0)
        known = {leaf: self._known(resolved, leaf, task) for leaf, task in loaded.items()}
        kept = {leaf: found for leaf, found in known.items() if found is not None}
        unasked = sum(self._count(task) for leaf, task in loaded.items() if leaf not in kept)
        return _Waiting(resolved=resolved, problem="", loaded=loaded, kept=kept, unasked=unasked)

    def outcome(self, waiting: _Waiting) -> Outcome:
        """Ask what was not found before."""
        began, results = time.monotonic(), dict(waiting.kept)
        for leaf, loaded in waiting.loaded.items():
            if leaf not in results:
                results[leaf] = self._asked(waiting.resolved, leaf, loaded)
        if waiting.unasked:
            self.asked += waiting.unasked
            self.seconds += time.monotonic() - began
        ordered = {leaf: results[leaf] for leaf in waiting.loaded}
        return Outcome(resolved=waiting.resolved, results=ordered, problem=waiting.problem)

    def time_left(self, waiting: Sequence[_Waiting]) -> float | None:
        """Seconds that the questions which are left may take, each as long as those before; none before the first."""
        left = sum(each.unasked for each in waiting)
        if not left:
            return 0.0
        return self.seconds / self.asked * left if self.asked else None

    def _count(self, loaded: Any) -> int:
        """The questions of a single task that are asked."""
        found = len(loaded.eval_docs)
        return found if self.questions is None else min(found, self.questions)

    def _measured(self, resolved: Resolved, leaf: str, loaded: Any) -> Measured:
        return Measured(
            model=self.subject.fingerprint,
            dtype=self.subject.dtype,
            task=leaf,
            asked=asked_fingerprint(resolved.task, loaded),
            questions=self.questions,
        )

    def _known(self, resolved: Resolved, leaf: str, loaded: Any) -> dict[str, Any] | None:
        kept = self.kept.read(self._measured(resolved, leaf, loaded)) if self.processes.first else None
        found: dict[str, Any] | None = self.processes.from_first(kept)
        return found

    def _asked(self, resolved: Resolved, leaf: str, loaded: Any) -> dict[str, Any]:
        measured = self._measured(resolved, leaf, loaded)
        if self.model is None:
            self.model = self.subject.open()
        found = ask_task(self.model, leaf, loaded, questions=self.questions)
        if self.processes.first:
            self.kept.write(measured, found)
        return found

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

    def log(self, outcome: Outcome, place: str, seconds: float, left: float | None) -> None:
        """Say what was found, and how long the rest may take."""
        if not self.processes.first:
            return
        said = (
            outcome.problem or f"{outcome.value:.4f} ± {outcome.stderr:.4f} ({outcome.questions:,} questions)"
        )
        name = outcome.resolved.task.name
        _log.info("%s, %s: %s, %.0f s; %s", place, name, said, seconds, _time(left))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "time left unknown"
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
