"""Models side by side: what each is, what was measured of it, and how sure the differences are."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shear_lit.evaluation.document_loss import DomainFigures
from shear_lit.evaluation.model_size import ModelSize
from shear_lit.evaluation.paired import Difference, Units, paired_difference
from shear_lit.evaluation.suites.results import SuiteScores
from shear_lit.evaluation.tables import markdown_table

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """One row."""

    name: str
    """What it is called in the tables."""
    model: str
    """Directory of the model, or ``organisation/model@commit``."""
    size: ModelSize
    """What it is made of."""
    losses: Mapping[str, DomainFigures] = field(default_factory=dict)
    """By domain."""
    documents: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Loss, tokens and bytes of every document, by domain."""
    text: str = ""
    """Fingerprint of the data that losses were measured on."""
    scores: SuiteScores | None = None
    """Downstream tasks."""
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Tokens per second."""
    tokens: int = 0
    """Tokens that it and what it was made from were trained on here."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Models, the first of which the others are compared with."""

    models: tuple[ComparedModel, ...]
    """In the order in which they were named."""

    def __str__(self) -> str:
        parts = ["# Comparison", self._size_table()]
        if any(model.losses for model in self.models):
            parts += [
                "## Losses",
                self._loss_table(bits=False),
                "## Bits per byte",
                self._loss_table(bits=True),
            ]
        if any(model.scores for model in self.models):
            parts += ["## Downstream tasks", self._score_table()]
        if differences := self.differences():
            parts += [f"## Differences from {self.models[0].name}", self._difference_table(differences)]
        return "\n\n".join(parts)

    def differences(self) -> dict[str, dict[str, Difference]]:
        """By model and by what is compared: the losses by domain and their mean, each task and their average."""
        first, *others = self.models
        return {model.name: found for model in others if (found := _differences(first, model))}

    def retention(self, model: ComparedModel) -> float:
        """The average of a model's tasks as a fraction of the first one's; nan where one has none."""
        own, first = model.scores, self.models[0].scores
        return own.average / first.average if own and first else math.nan

    def to_json(self) -> str:
        """All of it, for programs."""
        models = []
        for model in self.models:
            entries = {
                "name": model.name,
                "model": model.model,
                **asdict(model.size),
                "speeds": dict(model.speeds),
            }
            entries |= {
                "tokens": model.tokens,
                "losses": {name: asdict(f) for name, f in model.losses.items()},
            }
            if model.scores is not None:
                entries |= {
                    "scores": model.scores.to_dict()["results"],
                    "average": _finite(model.scores.average),
                }
                entries["retention"] = _finite(self.retention(model))
            models.append(entries)
        found = {
            name: {what: asdict(each) for what, each in rows.items()}
            for name, rows in self.differences().items()
        }
        whole = {"format": FORMAT, "models": models, "differences_from_first": found}
        return json.dumps(_without_nan(whole), indent=1) + "\n"

    def _size_table(self) -> str:
        kinds = list(self.models[0].speeds)
        rows = [
            [
                *(model.name, f"{model.size.parameters:,}", f"{model.size.without_embeddings:,}"),
                *(f"{model.size.flops_per_token / 1e6:,.0f}", f"{model.size.weight_bytes / 1e6:,.0f}"),
                *(f"{model.speeds[kind]:,.1f}" for kind in kinds),
                f"{model.tokens:,}",
            ]
            for model in self.models
        ]
        heads = ["model", "parameters", "without embeddings", "MFLOPs per token", "MB of weights"]
        return markdown_table([*heads, *(f"{kind} tokens/s" for kind in kinds), "trained on"], rows)

    def _loss_table(self, *, bits: bool) -> str:
        domains = list(dict.fromkeys(name for model in self.models for name in model.losses))
        rows = [
            [model.name, *(_loss(model.losses.get(name), bits=bits) for name in domains)]
            for model in self.models
        ]
        for row, model in zip(rows, self.models, strict=True):
            row.append(_number(_mean([_value(each, bits=bits) for each in model.losses.values()])))
        return markdown_table(["model", *domains, "mean"], rows)

    def _score_table(self) -> str:
        named = next(model.scores for model in self.models if model.scores)
        tasks = [outcome.resolved.task.name for outcome in named.outcomes]
        rows = []
        for model in self.models:
            found = {o.resolved.task.name: o for o in model.scores.outcomes} if model.scores else {}
            cells = [
                f"{100 * found[t].value:.2f} ± {100 * found[t].stderr:.2f}"
                if t in found and not found[t].problem
                else "-"
                for t in tasks
            ]
            average = model.scores.average if model.scores else math.nan
            rows.append([model.name, *cells, _percent(average), _percent(self.retention(model))])
        for row in named.published.rows if named.published else ():
            cells = [_published(row.tasks.get(task)) for task in tasks]
            rows.append([f"{row.model} (published)", *cells, _published(row.average), ""])
        source = f"\n\nPublished: {named.published.source}" if named.published else ""
        return markdown_table(["model", *tasks, "average %", "retention %"], rows) + source

    def _difference_table(self, differences: Mapping[str, Mapping[str, Difference]]) -> str:
        rows = [
            [name, what, str(each)] for name, found in differences.items() for what, each in found.items()
        ]
        said = (
            "95 % intervals by paired bootstrap over documents or questions; `0 inside`: nothing tells which is ahead. "
            "Losses: lower is better; tasks: higher is."
        )
        return f"{markdown_table(['model', 'of', 'difference'], rows)}\n\n{said}"


def _differences(first: ComparedModel, other: ComparedModel) -> dict[str, Difference]:
    found = {}
    if first.text and first.text == other.text:
        groups = {
            name: _document_units(first.documents[name], other.documents[name]) for name in first.documents
        }
        groups = {name: group for name, group in groups.items() if group.sizes.sum() > 0}
        found = {f"loss, {name}": paired_difference([group]) for name, group in groups.items()}
        if groups:
            found["loss, mean"] = paired_difference(list(groups.values()))
    if first.scores and other.scores:
        found |= _task_differences(first.scores, other.scores)
    return found


def _document_units(first: NDArray[np.float64], other: NDArray[np.float64]) -> Units:
    return Units(differences=other[:, 0] - first[:, 0], sizes=first[:, 1])


def _task_differences(first: SuiteScores, other: SuiteScores) -> dict[str, Difference]:
    """By task; a group is all of its questions, as its figure weighs them."""
    pairs = {
        mine.resolved.task.name: _question_units(mine.question_values, theirs.question_values)
        for mine, theirs in zip(first.outcomes, other.outcomes, strict=True)
        if not mine.problem and not theirs.problem
    }
    pairs = {name: units for name, units in pairs.items() if len(units.sizes)}
    found = {f"task, {name}": paired_difference([units]) for name, units in pairs.items()}
    averaged = [pairs[name] for name in first.suite.average if name in pairs]
    if averaged and len(averaged) == len(first.suite.average):
        found["tasks, average"] = paired_difference(averaged)
    return found


def _question_units(first: NDArray[np.float64], other: NDArray[np.float64]) -> Units:
    count = len(first) if len(first) == len(other) else 0
    return Units(differences=other[:count] - first[:count], sizes=np.ones(count))


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
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _published(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _without_nan(value: Any) -> Any:
    """The same for JSON, which knows no nan."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
