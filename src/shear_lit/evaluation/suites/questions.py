"""The questions of a suite's tasks as texts, for `shear-lit prepare` to look for: from local files or the harness."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shear_lit.data.text.contamination.tasks import Task, tasks_of_files
from shear_lit.disk.records import one_line
from shear_lit.evaluation.suites.errors import SuiteError
from shear_lit.evaluation.suites.suite import Suite, SuiteTask


def tasks_of_suite(suite: Suite, fields: Sequence[str]) -> list[Task]:
    """The tasks of a suite with their questions; ``fields`` are those of questions in local files.

    Of a task of the harness it is what that task itself names for this purpose, or otherwise its prompt without
    examples. Its data must be in the cache of the library of data sets: nothing is fetched.

    Raises:
        SuiteError: questions are not at hand; it names all such tasks.
    """
    found, missing = list[Task](), list[str]()
    for task in suite.tasks:
        if task.local is not None:
            found += _of_files(suite, task, fields)
            continue
        try:
            found += _of_harness(suite, task)
        except (
            Exception
        ) as error:  # the harness, the hub and the libraries that read have errors of their own
            missing.append(f"{task.name} ({one_line(error)[:120]})")
    if missing:
        shown = "; ".join(missing[:3]) + (f"; and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise SuiteError(
            f"{suite.name!r}: the questions of {len(missing)} of {len(suite.tasks)} tasks are not on this machine: "
            f"{shown}. Evaluate a model on the suite once, which fetches them, or name files in decontaminate.files.",
            key="decontaminate.suites",
        )
    return found


def _of_files(suite: Suite, task: SuiteTask, fields: Sequence[str]) -> list[Task]:
    assert task.local is not None
    named = task.local.config["dataset_kwargs"]["data_files"]
    files = [file for names in named.values() for file in ([names] if isinstance(names, str) else names)]
    examples = [example for one in tasks_of_files(files, fields) for example in one.examples]
    return [Task(f"{suite.name}/{task.name}", tuple(examples))]


def _of_harness(suite: Suite, task: SuiteTask) -> Iterator[Task]:
    from shear_lit.evaluation.suites.asking import load_task
    from shear_lit.evaluation.suites.registry import resolve

    (resolved,) = resolve(Suite(name=suite.name, tasks=(task,)))
    if resolved.problem:
        raise ValueError(resolved.problem)
    with _offline():
        for leaf in resolved.leaves:
            loaded = load_task(resolved, leaf)
            texts = (_question(loaded, document) for document in loaded.eval_docs)
            yield Task(f"{suite.name}/{leaf}", tuple(texts))


def _question(loaded: Any, document: Any) -> str:
    asked = loaded.should_decontaminate() and loaded.doc_to_decontamination_query(document)
    return str(asked or loaded.doc_to_text(document))


@contextmanager
def _offline() -> Iterator[None]:
    """Within it the libraries of the hub ask nobody; they read their switches when they are imported."""
    import datasets.config
    import huggingface_hub.constants

    places = [(huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(place, name) for place, name in places]
    for place, name in places:
        setattr(place, name, True)
    try:
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)
