"""Tasks of a suite, looked up in the harness's own registry, offline: what each name stands for today."""

import difflib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from shear_lit.evaluation.suites.suite import Asked, Suite, SuiteTask


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A task of a suite, and what the harness has under its name."""

    task: SuiteTask
    """The task."""
    leaves: tuple[str, ...] = ()
    """The single tasks that are asked: several where the name is a group's."""
    metric: str = ""
    """The figure that is reported."""
    shots: int = 0
    """Solved examples before each question."""
    version: str = ""
    """The version that the harness has."""
    by_size: bool = True
    """Whether a group's figure weighs its tasks by their questions."""
    problem: str = ""
    """Why it cannot be asked; empty where it can."""

    @property
    def key(self) -> str:
        """The harness's name of the figure, ``metric,filter``."""
        return f"{self.metric},{self.task.asked.filter}"

    @property
    def is_group(self) -> bool:
        """Whether it is a group of tasks."""
        return self.leaves != (self.task.name,)


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Within it the harness and the library of its data, which tell of every default, say errors only."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "httpx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            datasets.enable_progress_bars()


@cache
def registry() -> Any:
    """The harness's own tasks; looking through its 14,000 files takes some seconds, and is done once."""
    from lm_eval.tasks import TaskManager

    with quiet_harness():
        return TaskManager()


def resolve(suite: Suite) -> list[Resolved]:
    """Look every task of a suite up; none is skipped, and what cannot be asked says why."""
    return [_resolved(task) for task in suite.tasks]


def _resolved(task: SuiteTask) -> Resolved:
    asked = task.asked
    if task.local is not None:
        version = str(task.local.config.get("metadata", {}).get("version", ""))
        assert asked.metric is not None
        return Resolved(
            task=task,
            leaves=(asked.task,),
            metric=asked.metric,
            shots=task.local.shots,
            version=version,
        )
    known: Mapping[str, Any] = registry().task_index
    if asked.task not in known:
        alike = difflib.get_close_matches(asked.task, known, n=1)
        hint = f"; did you mean {alike[0]}?" if alike else ""
        return Resolved(task=task, problem=f"the harness has no task of this name{hint}")
    leaves = tuple(dict.fromkeys(_leaves(asked.task, known)))
    config = known[asked.task].cfg or known[leaves[0]].cfg
    found: float | None = (config.get("metadata") or {}).get("version")
    metric = asked.metric or _metrics(known[leaves[0]].cfg)[0]
    shots = known[leaves[0]].cfg.get("num_fewshot") or 0 if asked.shots is None else asked.shots
    return Resolved(
        task=task,
        leaves=leaves,
        metric=metric,
        shots=int(shots),
        version="" if found is None else str(float(found)),
        by_size=not asked.plain_mean
        and all(each.get("weight_by_size", True) for each in config.get("aggregate_metric_list") or ()),
        problem=_problem(asked, metric, found, [known[leaf].cfg for leaf in leaves]),
    )


def _leaves(name: str, known: Mapping[str, Any]) -> Iterator[str]:
    """The single tasks of a name."""
    entry = known[name]
    kind = entry.kind.name
    if kind == "TAG":
        yield from sorted(entry.tags)
    elif kind == "GROUP":
        for member in entry.cfg["task"]:
            inner = member if isinstance(member, str) else member.get("task", member.get("group"))
            yield from _leaves(inner, known) if inner in known else ()
    else:
        yield name


def _metrics(config: Mapping[str, Any]) -> list[str]:
    return [str(entry["metric"]) for entry in config.get("metric_list") or [{"metric": "acc"}]]


def _problem(asked: Asked, metric: str, version: float | None, leaves: list[Mapping[str, Any]]) -> str:
    """Why the harness's task is not the one that is asked for; empty where it is."""
    if asked.version is not None and version != asked.version:
        return f"the harness has version {version}, and the suite was written for {asked.version}"
    for leaf in leaves:
        filters = [each["name"] for each in leaf.get("filter_list") or [{"name": "none"}]]
        if metric not in _metrics(leaf):
            return f"its metrics are {', '.join(_metrics(leaf))}, and {metric} is asked for"
        if asked.filter not in filters:
            return f"its filters are {', '.join(filters)}, and {asked.filter} is asked for"
        if asked.shots and leaf.get("num_fewshot") == 0:
            return f"it is always asked without examples, and {asked.shots} are asked for"
    return ""
