"""One of several models that stand side by side, and how far it is from another one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shear_lit.evaluation.answers.figures import Answers, answer_differences
from shear_lit.evaluation.document_loss import DomainFigures
from shear_lit.evaluation.model_size import ModelSize
from shear_lit.evaluation.paired import Difference, Units, paired_difference
from shear_lit.evaluation.speed import Speeds
from shear_lit.evaluation.suites.results import SuiteScores

_LOSS, _TOKENS, _BYTES = range(3)


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """What was measured of one model."""

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
    answers: Answers | None = None
    """What it makes of prompts with references."""
    speeds: Speeds | None = None
    """What reading and writing takes; none where it was not measured."""
    tokens: int = 0
    """Tokens that it and what it was made from were trained on here."""
    device_seconds: float = 0.0
    """Seconds that this training kept its devices, all together; nan where that is not known."""


def differences_of(first: ComparedModel, other: ComparedModel) -> dict[str, Difference]:
    """How far a model is from the first one, by what is compared: domains and tasks with their means, answers."""
    found = _loss_differences(first, other) if first.text and first.text == other.text else {}
    if first.scores and other.scores:
        found |= _task_differences(first.scores, other.scores)
    if first.answers and other.answers:
        found |= answer_differences(first.answers, other.answers)
    return found


def _loss_differences(first: ComparedModel, other: ComparedModel) -> dict[str, Difference]:
    """Of losses per token where the tokens are the same, otherwise of bits per byte."""
    pairs = {name: (first.documents[name], other.documents[name]) for name in first.documents}
    same = all(np.array_equal(mine[:, _TOKENS], theirs[:, _TOKENS]) for mine, theirs in pairs.values())
    kind, column, scale = ("loss", _TOKENS, 1.0) if same else ("bits per byte", _BYTES, math.log(2))
    groups = {
        name: Units(differences=(theirs[:, _LOSS] - mine[:, _LOSS]) / scale, sizes=mine[:, column])
        for name, (mine, theirs) in pairs.items()
    }
    groups = {name: group for name, group in groups.items() if group.sizes.sum() > 0}
    found = {f"{kind}, {name}": paired_difference([group]) for name, group in groups.items()}
    if groups:
        found[f"{kind}, mean"] = paired_difference(list(groups.values()))
    return found


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
