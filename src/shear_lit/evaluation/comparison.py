"""Models side by side: what each is, what was measured of it, and how sure the differences are."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from shear_lit.evaluation.answers.figures import answer_table
from shear_lit.evaluation.answers.win_rate import WinRate, win_table
from shear_lit.evaluation.compared import ComparedModel, differences_of
from shear_lit.evaluation.document_loss import DomainFigures
from shear_lit.evaluation.model_size import CACHED_TOKENS
from shear_lit.evaluation.paired import Difference
from shear_lit.evaluation.suites.results import SuiteScores
from shear_lit.evaluation.tables import Table, drawn

FORMAT = 1
ALL = "all"
"""Every model is compared with every other."""
_TITLE = "Comparison"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Models, and with which of them the others are compared."""

    models: tuple[ComparedModel, ...]
    """In the order in which they were named."""
    against: str = ""
    """The name of the model that the others are compared with; empty: the first; ``ALL``: each with each."""
    win_rates: tuple[WinRate, ...] = ()
    """What a judge prefers, by pair of models."""

    def __str__(self) -> str:
        return "\n\n".join([f"# {_TITLE}", *(table.in_markdown() for table in self.tables())])

    def on_terminal(self, *, width: int | None = None) -> str:
        """The same, drawn for a terminal."""
        return drawn(self.tables(), width=width)

    def tables(self) -> list[Table]:
        """Sizes, losses, tasks, answers, what a judge prefers and differences, as far as there are any."""
        found = [self._size_table()]
        if any(model.losses for model in self.models):
            found += [self._loss_table(bits=False), self._loss_table(bits=True)]
        if any(model.scores for model in self.models):
            found.append(self._score_table())
        if answered := [(model.name, model.answers) for model in self.models if model.answers]:
            found.append(answer_table(answered))
        if self.win_rates:
            found.append(win_table(self.win_rates))
        differences = self.differences()
        return [*found, _difference_table(differences)] if differences else found

    @property
    def base(self) -> ComparedModel:
        """The model that retention refers to: the one that the others are compared with, or the first."""
        return next((model for model in self.models if model.name == self.against), self.models[0])

    def differences(self) -> dict[tuple[str, str], dict[str, Difference]]:
        """By the names of a model and of the one that it is compared with, and by what is compared."""
        return self._differences

    def pairs(self) -> list[tuple[ComparedModel, ComparedModel]]:
        """The models that are compared: the one that another stands against, and that one."""
        if self.against == ALL:
            return list(combinations(self.models, 2))
        return [(self.base, model) for model in self.models if model is not self.base]

    @cached_property
    def _differences(self) -> dict[tuple[str, str], dict[str, Difference]]:
        pairs = self.pairs()
        found = {(other.name, first.name): differences_of(first, other) for first, other in pairs}
        return {names: each for names, each in found.items() if each}

    def retention(self, model: ComparedModel) -> float:
        """The average of a model's tasks as a fraction of the base's; nan where one has none."""
        own, base = model.scores, self.base.scores
        return own.average / base.average if own and base else math.nan

    def to_dict(self) -> dict[str, Any]:
        """All of it, for programs."""
        differences = [
            {"model": model, "against": against, "of": what, **asdict(each), "holds_zero": each.holds_zero}
            for (model, against), rows in self.differences().items()
            for what, each in rows.items()
        ]
        models = [self._entry(model) for model in self.models]
        whole = {"format": FORMAT, "models": models, "base": self.base.name, "differences": differences}
        if self.win_rates:
            whole["win_rates"] = [rate.to_dict() for rate in self.win_rates]
        return dict(_without_nan(whole))

    def to_json(self) -> str:
        """The same, as text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def _entry(self, model: ComparedModel) -> dict[str, Any]:
        speeds = model.speeds
        entries = {
            **{"name": model.name, "model": model.model, **asdict(model.size)},
            "speeds": dict(speeds.tokens_per_second) if speeds else {},
            "peak_bytes": speeds.peak_bytes if speeds else None,
            **{"tokens": model.tokens, "device_seconds": model.device_seconds},
            "losses": {name: asdict(figures) for name, figures in model.losses.items()},
        }
        if model.scores is not None:
            entries["scores"] = model.scores.to_dict()["results"]
            entries |= {"average": model.scores.average, "retention": self.retention(model)}
        if model.answers is not None:
            entries["answers"] = model.answers.to_dict()
        return entries

    def _size_table(self) -> Table:
        """Figures below each other and models beside each other: there are more figures than models."""
        figures = {
            "parameters": [f"{model.size.parameters:,}" for model in self.models],
            "without embeddings": [f"{model.size.without_embeddings:,}" for model in self.models],
            "MFLOPs per token": [f"{model.size.flops_per_token / 1e6:,.0f}" for model in self.models],
            "weights, MB": [_megabytes(model.size.weight_bytes) for model in self.models],
            f"KV cache of {CACHED_TOKENS:,} tokens, MB": [
                _megabytes(model.size.cache_bytes) for model in self.models
            ],
        }
        measured = [model.speeds for model in self.models if model.speeds]
        if any(speeds.peak_bytes is not None for speeds in measured):
            figures["peak while it is timed, MB"] = [
                _megabytes(model.speeds.peak_bytes if model.speeds else None) for model in self.models
            ]
        for kind in measured[0].tokens_per_second if measured else ():
            figures[f"{kind}, tokens/s"] = [
                f"{model.speeds.tokens_per_second[kind]:,.1f}" if model.speeds else "-"
                for model in self.models
            ]
        figures["trained here on, tokens"] = [f"{model.tokens:,}" for model in self.models]
        figures["trained here for, device-hours"] = [
            "unknown" if math.isnan(model.device_seconds) else f"{model.device_seconds / 3600:,.2f}"
            for model in self.models
        ]
        rows = tuple((what, *cells) for what, cells in figures.items())
        return Table(title="Sizes", header=("", *(model.name for model in self.models)), rows=rows)

    def _loss_table(self, *, bits: bool) -> Table:
        domains = list(dict.fromkeys(name for model in self.models for name in model.losses))
        rows = tuple(
            (
                model.name,
                *(_loss(model.losses.get(name), bits=bits) for name in domains),
                _number(_mean([_value(each, bits=bits) for each in model.losses.values()])),
            )
            for model in self.models
        )
        title, note = ("Bits per byte", "") if bits else ("Losses", "Nats per token, ± one standard error.")
        return Table(title=title, header=("model", *domains, "mean"), rows=rows, note=note)

    def _score_table(self) -> Table:
        named = next(model.scores for model in self.models if model.scores)
        tasks = [outcome.resolved.task.name for outcome in named.outcomes]
        rows = [
            (
                *(model.name, f"{model.size.parameters:,}", *_task_cells(model.scores, tasks)),
                *(_average(model.scores), _percent(self.retention(model))),
            )
            for model in self.models
        ]
        for row in named.published.rows if named.published else ():
            cells = [_published(row.tasks.get(task)) for task in tasks]
            rows.append((f"{row.model} (published)", row.size, *cells, _published(row.average), ""))
        notes = [
            f"In percent, ± one standard error. Retention: the average as a share of {self.base.name}'s."
        ]
        notes += [f"Published: {named.published.source}"] if named.published else []
        header = ("model", "parameters", *tasks, "average", "retention")
        return Table(title="Downstream tasks", header=header, rows=tuple(rows), note="\n\n".join(notes))


def _difference_table(differences: dict[tuple[str, str], dict[str, Difference]]) -> Table:
    note = (
        "95 % intervals by paired bootstrap over documents or questions; `0 inside`: nothing tells which is ahead. "
        "Losses and bits per byte: lower is better; tasks: higher is; of lengths neither."
    )
    rows = tuple(
        (model, against, what, str(each))
        for (model, against), found in differences.items()
        for what, each in found.items()
    )
    return Table(title="Differences", header=("model", "against", "in", "difference"), rows=rows, note=note)


def _task_cells(scores: SuiteScores | None, tasks: Sequence[str]) -> list[str]:
    found = {each.resolved.task.name: each for each in scores.outcomes} if scores else {}
    return [
        f"{100 * found[task].value:.2f} ± {100 * found[task].stderr:.2f}"
        if task in found and not found[task].problem
        else "-"
        for task in tasks
    ]


def _average(scores: SuiteScores | None) -> str:
    if scores is None or math.isnan(scores.average):
        return "-"
    return f"{100 * scores.average:.2f} ± {100 * scores.average_stderr:.2f}"


def _value(figures: DomainFigures, *, bits: bool) -> float:
    return figures.bits_per_byte if bits else figures.loss


def _loss(figures: DomainFigures | None, *, bits: bool) -> str:
    if figures is None or math.isnan(_value(figures, bits=bits)):
        return "-"
    stderr = figures.bits_per_byte_stderr if bits else figures.stderr
    return f"{_value(figures, bits=bits):.4f} ± {stderr:.4f}"


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.1f}"


def _published(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _without_nan(value: Any) -> Any:
    """The same for JSON, which knows no nan."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
