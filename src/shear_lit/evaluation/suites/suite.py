"""A suite: tasks with their shots, metrics and versions, read from a data file that says where they come from."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shear_lit.disk.names import expanded
from shear_lit.disk.reading import read_yaml
from shear_lit.disk.records import record_of
from shear_lit.evaluation.suites.errors import SuiteError
from shear_lit.evaluation.suites.local_tasks import LocalTask, is_local_task, local_task

_FOLDER = Path(__file__).parent / "shipped"
KEY = "suite"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a suite says of one task of the harness."""

    task: str
    """Its name in the harness's registry: a task, or a group of tasks."""
    metric: str | None = None
    """The figure that is reported; none: the first that the task has."""
    filter: str = "none"
    """What the harness takes the answer out of a generated text with."""
    shots: int | None = None
    """Solved examples before each question; none: as the task itself says."""
    version: float | None = None
    """The version of the task that the suite was written for; none: any."""
    plain_mean: bool = False
    """Whether a group's figure is the plain mean of its tasks, where the harness weighs them by their questions."""
    differs: str = ""
    """How this version differs from what the published figures were measured with."""


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """One row of a suite's table."""

    asked: Asked
    """What is asked, and which figure of it counts."""
    local: LocalTask | None = None
    """The task itself, where it is no task of the harness's registry."""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.asked.task


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that are reported together."""

    name: str
    """What it is called."""
    tasks: tuple[SuiteTask, ...]
    """In the order of its table."""
    average: tuple[str, ...] = ()
    """Tasks whose mean is the suite's one number; none: there is no such number."""
    questions: int | None = None
    """At most so many questions of each task; none: all."""
    source: str = ""
    """Where tasks, shots and metrics are published."""


@dataclass(frozen=True, kw_only=True)
class _File:
    """The keys of a file of a suite, besides its tasks."""

    suite: str
    average: tuple[str, ...] = ()
    questions: int | None = None
    source: str = ""


def shipped_suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml")) if path.stem != "published"}


def read_suite(name: str, *, questions_in: Path | None = None) -> Suite:
    """The suite of a name, or that of a YAML file: of several tasks, or of one.

    ``questions_in``: the folder that a shipped suite's own files of questions were put into.

    Raises:
        SuiteError: there is no such suite, or the file is none.
    """
    known = shipped_suites()
    if name in known:
        return _suite_of(known[name], _content(known[name], name), questions_in or known[name].parent)
    path = expanded(name)
    if not path.is_file():
        alike = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {alike[0]}? " if alike else ""
        raise SuiteError(
            f"{name!r} is neither a suite ({', '.join(known)}) nor a YAML file. {hint}Correct it.", key=KEY
        )
    return _suite_of(path, _content(path, name), path.parent)


def _content(path: Path, name: str) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise SuiteError(f"{name!r} cannot be read: {error.strerror}. Name a YAML file.", key=KEY) from error
    except ValueError as error:
        code = "!function" in str(error)
        rule = (
            "code of a task is never run (!function): write a template in its place" if code else f"{error}"
        )
        raise SuiteError(f"{name!r} is no YAML in plain types: {rule}. Correct it.", key=KEY) from error
    if not isinstance(content, dict):
        raise SuiteError(
            f"{name!r} holds no keys with values: `task`, `kind` and `data` are expected, or a list of `tasks`. "
            f"Correct it.",
            key=KEY,
        )
    return content


def _suite_of(path: Path, content: dict[str, Any], folder: Path) -> Suite:
    where = repr(str(path))
    if "tasks" not in content:
        task = _task_of(content, folder, where)
        return Suite(name=task.name, tasks=(task,))
    entries = content.pop("tasks")
    if not isinstance(entries, list) or not entries:
        raise SuiteError(
            f"{where}: `tasks` is {entries!r}: a list of tasks is expected. Correct it.", key=KEY
        )
    file = _record(_File, content, where)
    tasks = tuple(_task_of(entry, folder, where) for entry in entries)
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted(set(file.average) - set(names))
    if twice or unknown:
        what = (
            f"the task {twice[0]!r} is there twice"
            if twice
            else f"`average` names {unknown[0]!r}, which is no task"
        )
        raise SuiteError(f"{where}: {what}. Correct it.", key=KEY)
    return Suite(
        name=file.suite, tasks=tasks, average=file.average, questions=file.questions, source=file.source
    )


def _task_of(entry: Any, folder: Path, where: str) -> SuiteTask:
    if isinstance(entry, str) and entry.endswith((".yaml", ".yml")):
        path = folder / expanded(entry)
        return _task_of(_content(path, str(path)), path.parent, repr(str(path)))
    if isinstance(entry, str):
        return SuiteTask(asked=Asked(task=entry))
    if not isinstance(entry, dict):
        raise SuiteError(f"{where}: {entry!r} is no task: a name or keys are expected. Correct it.", key=KEY)
    if is_local_task(entry):
        local = local_task(entry, folder, where)
        asked = Asked(task=local.name, metric=local.metric, filter=local.filter, shots=local.shots)
        return SuiteTask(asked=asked, local=local)
    return SuiteTask(asked=_record(Asked, entry, where))


def _record(kind: Any, entries: Mapping[str, Any], where: str) -> Any:
    try:
        return record_of(kind, dict(entries))
    except ValueError as error:
        raise SuiteError(f"{where}: {error}. Correct it.", key=KEY) from error
