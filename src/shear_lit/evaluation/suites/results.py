"""A measured suite: for people as a table, for programs in the harness's own layout, for TensorBoard as scalars."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shear_lit.disk.reading import SMALL_FILE_BYTES, read_json
from shear_lit.disk.writing import write_file
from shear_lit.evaluation.suites.errors import SuiteError
from shear_lit.evaluation.suites.measuring import Outcome, Subject
from shear_lit.evaluation.suites.published import PublishedRow, PublishedTable
from shear_lit.evaluation.suites.suite import Suite
from shear_lit.evaluation.tables import markdown_table

PARTIAL = 3
"""The exit code of a suite of which something could not be asked."""
RESULTS, PAGE = "results.json", "results.md"
_OF_GROUPS = ("results", "n-samples", "configs", "versions", "n-shot", "higher_is_better")


@dataclass(frozen=True, kw_only=True)
class SuiteScores:
    """What a suite says about a model."""

    suite: Suite
    """What was asked."""
    model: str
    """Directory of the model, or ``organisation/model@commit``."""
    fingerprint: str
    """Hash of its weights and its tokenizer."""
    dtype: str
    """What it computed in."""
    parameters: int
    """Its size."""
    questions: int | None
    """At most so many questions of each single task were asked; none: all."""
    outcomes: tuple[Outcome, ...]
    """By task."""
    published: PublishedTable | None = None
    """What is published of the suite."""
    began: float = field(default_factory=time.time)
    """When it was asked for."""

    @property
    def missing(self) -> dict[str, str]:
        """The tasks that were not asked, and why."""
        return {each.resolved.task.name: each.problem for each in self.outcomes if each.problem}

    @property
    def exit_code(self) -> int:
        """Other than 0 where a task is missing."""
        return PARTIAL if self.missing else 0

    @property
    def averaged(self) -> list[Outcome]:
        """The tasks of the average."""
        return [each for each in self.outcomes if each.resolved.task.name in self.suite.average]

    @property
    def average(self) -> float:
        """The suite's one number; nan where it has none, or one of its tasks is missing."""
        values = [each.value for each in self.averaged]
        return sum(values) / len(values) if values else math.nan

    @property
    def average_stderr(self) -> float:
        """Its standard error: tasks are asked independently of each other."""
        errors = [each.stderr for each in self.averaged]
        return math.sqrt(sum(error**2 for error in errors)) / len(errors) if errors else math.nan

    def __str__(self) -> str:
        most = "" if self.questions is None else f", at most {self.questions} questions of each task"
        lines = [
            f"# {self.suite.name}: {self.model}",
            f"{self.parameters:,} parameters, in {self.dtype}, lm-evaluation-harness {version('lm_eval')}{most}.",
            self._table(),
        ]
        if self.missing:
            named = "\n".join(f"- {name}: {problem}" for name, problem in self.missing.items())
            lines.append(
                f"PARTIAL: {len(self.missing)} of {len(self.outcomes)} tasks were not asked.\n\n{named}"
            )
        changed = {o.resolved.task.name: o.resolved.task.asked.differs for o in self.outcomes}
        if any(changed.values()):
            said = "\n".join(f"- {name}: {differs}" for name, differs in changed.items() if differs)
            lines.append(f"What differs from the published measurements:\n\n{said}")
        for source in (self.suite.source, self.published.source if self.published else ""):
            lines += [f"Source: {source}"] if source else []
        return "\n\n".join(lines)

    def _table(self) -> str:
        published = self.published.rows if self.published else ()
        rows = [self._row(each, published) for each in self.outcomes]
        if self.suite.average:
            mean = _percent(self.average, self.average_stderr)
            rows.append(["average", "", "", "", mean, *(_cell(row.average) for row in published)])
        heads = [f"{row.model} (published)" for row in published]
        return markdown_table(["task", "shots", "metric", "questions", "% ± standard error", *heads], rows)

    def _row(self, outcome: Outcome, published: Sequence[PublishedRow]) -> list[str]:
        resolved = outcome.resolved
        found = "not asked" if outcome.problem else _figure(outcome)
        count = "" if outcome.problem else f"{outcome.questions:,}"
        beside = [_cell(row.tasks.get(resolved.task.name)) for row in published]
        return [resolved.task.name, str(resolved.shots), resolved.metric, count, found, *beside]

    def to_dict(self) -> dict[str, Any]:
        """The harness's own layout, and what it has no place for under ``shear_lit``."""
        whole: dict[str, Any] = {name: {} for name in _OF_GROUPS}
        groups: dict[str, Any] = {}
        members: dict[str, list[str]] = {}
        for outcome in self.outcomes:
            name = outcome.resolved.task.name
            for result in outcome.results.values():
                for part in _OF_GROUPS:
                    whole[part] |= result[part]
            if outcome.results and outcome.resolved.is_group:
                groups[name] = whole["results"][name] = _group(outcome)
                members[name] = list(outcome.resolved.leaves)
                whole["versions"][name] = outcome.resolved.version
        return {
            **whole,
            **({"groups": groups} if groups else {}),
            "group_subtasks": members,
            "config": {
                **{"model": "hf", "model_args": {"pretrained": self.model, "dtype": self.dtype}},
                **{
                    "model_num_parameters": self.parameters,
                    "model_dtype": self.dtype,
                    "limit": self.questions,
                },
            },
            "date": self.began,
            "lm_eval_version": version("lm_eval"),
            "transformers_version": version("transformers"),
            "model_source": "hf",
            "model_name": self.model,
            "shear_lit": {
                "suite": self.suite.name,
                "model_fingerprint": self.fingerprint,
                "average": None if math.isnan(self.average) else self.average,
                "average_stderr": None if math.isnan(self.average_stderr) else self.average_stderr,
                "averaged": list(self.suite.average),
                "figures": {o.resolved.task.name: o.resolved.key for o in self.outcomes},
                "missing": self.missing,
            },
        }

    def write(self, folder: Path, *, step: int = 0) -> None:
        """Write the page, the results, every question with its answer, and scalars, into a folder.

        Raises:
            SuiteError: the folder holds the results of another model.
        """
        check_results_folder(folder, self.fingerprint)
        for outcome in self.outcomes:
            for leaf, result in outcome.results.items():
                lines = [json.dumps(_sample(each), ensure_ascii=False) for each in result["samples"][leaf]]
                write_file(folder / f"samples_{leaf}.jsonl", "".join(f"{line}\n" for line in lines))
        write_file(folder / PAGE, f"{self}\n")
        write_file(folder / RESULTS, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        write_scalars(folder, self.scalars(), step)

    def scalars(self) -> dict[str, float]:
        """The figures by the names that loggers know them by."""
        found = {
            f"suite/{self.suite.name}/{o.resolved.task.name}": o.value for o in self.outcomes if not o.problem
        }
        if not math.isnan(self.average):
            found[f"suite/{self.suite.name}/average"] = self.average
        return found


def scores_of(
    suite: Suite,
    subject: Subject,
    parameters: int,
    outcomes: list[Outcome],
    *,
    questions: int | None,
    published: PublishedTable | None,
) -> SuiteScores:
    """What was found, with what it was found on."""
    return SuiteScores(
        suite=suite,
        model=subject.name,
        fingerprint=subject.fingerprint,
        dtype=subject.dtype,
        parameters=parameters,
        questions=questions,
        outcomes=tuple(outcomes),
        published=published,
    )


def check_results_folder(folder: Path, fingerprint: str) -> None:
    """Refuse a folder that holds the results of another model.

    Raises:
        SuiteError: it does.
    """
    try:
        found = read_json(folder / RESULTS, limit=16 * SMALL_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise SuiteError(
            f"{str(folder)!r}: its {RESULTS} cannot be read ({error}). Remove it.", key="output"
        ) from error
    ours = found.get("shear_lit") if isinstance(found, Mapping) else None
    if not isinstance(ours, Mapping) or ours.get("model_fingerprint") != fingerprint:
        name = found.get("model_name") if isinstance(found, Mapping) else None
        raise SuiteError(
            f"{str(folder)!r} holds the results of another model ({name!r}): one folder is for one model. "
            f"Choose another folder.",
            key="output",
        )


def write_scalars(folder: Path, scalars: Mapping[str, float], step: int) -> None:
    """Write numbers for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)


def _group(outcome: Outcome) -> dict[str, Any]:
    name, key = outcome.resolved.task.name, outcome.resolved.key
    metric, _, chosen = key.partition(",")
    figures = {key: outcome.value, f"{metric}_stderr,{chosen}": outcome.stderr}
    return {"name": name, "alias": name, "sample_len": outcome.questions, **figures}


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A question with its answer, in the layout of the harness's files."""
    arguments = {
        f"gen_args_{number}": {f"arg_{place}": part for place, part in enumerate(request)}
        for number, request in enumerate(sample["arguments"])
    }
    return {**sample, "arguments": arguments, "target": str(sample["target"])}


def _is_fraction(outcome: Outcome) -> bool:
    return "perplexity" not in outcome.resolved.metric


def _figure(outcome: Outcome) -> str:
    if _is_fraction(outcome):
        return _percent(outcome.value, outcome.stderr)
    return f"{outcome.value:.3f} ± {outcome.stderr:.3f} (perplexity)"


def _percent(value: float, stderr: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f} ± {100 * stderr:.2f}"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
