"""The objective of a step, and the frozen model that it may learn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from shear_lit.disk.names import expanded, is_sha256
from shear_lit.models.choices import Attention
from shear_lit.models.head import head_computing
from shear_lit.models.huggingface import read_model, source_fingerprint
from shear_lit.pruning.gate_settings import Objective
from shear_lit.ranges import NumberFrom0, PositiveNumber, as_plain_numbers
from shear_lit.reporting.model_facts import TeacherFacts
from shear_lit.reporting.recipe import read_recipe
from shear_lit.theory.losses import Divergence, Given, Head, Weights, next_tokens, objective
from shear_lit.theory.sparse import Sparse
from shear_lit.training.errors import RunError

SOURCE = "source"
"""The teacher that is the model from which everything began."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn from a frozen model as well as from the text, or from it alone (arXiv:2408.11796).

    Both have the same weight by default (benchmarks/results/recovery_h100_2026-11.md).
    """

    teacher: str = SOURCE
    """Directory or hub name of the model to learn from; `source`: the source, in stage 2 the one that was pruned."""
    weight: PositiveNumber = 1.0
    """Of the divergence from the teacher, over the whole vocabulary."""
    language_weight: NumberFrom0 = 1.0
    """Of cross-entropy."""
    temperature: PositiveNumber = 1.0
    """What the logits of both are divided by; the divergence is multiplied by its square."""
    objective: Divergence = "forward_kl"
    """`forward_kl`, from the teacher's distribution; `reverse_kl`, from the model's; or `jensen_shannon`."""
    layers_weight: NumberFrom0 = 0.0
    """Of the distance of the residual stream behind each block from the teacher's behind the same block; 0: none."""
    cache: str | None = None
    """Directory of what the teacher has said, which `shear-lit teach` wrote; null: it is asked in every step."""
    missing: Literal["refuse", "compute"] = "refuse"
    """A sequence that the cache lacks: `refuse` ends the run, and no teacher is loaded; `compute` asks the teacher."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher's weights are needed."""
        return self.cache is None or self.missing == "compute"

    @property
    def weights(self) -> Weights:
        """Of the objective."""
        return Weights(
            language=self.language_weight,
            divergence=self.weight,
            temperature=self.temperature,
            kind=self.objective,
        )

    def facts(self, name: str, fingerprint: str, kept: str = "") -> TeacherFacts:
        """What cards say of it; ``kept`` is what a cache has of its distributions."""
        return TeacherFacts(
            name=name,
            fingerprint=fingerprint,
            objective=self.objective,
            temperature=float(self.temperature),
            weight=float(self.weight),
            language_weight=float(self.language_weight),
            layers_weight=float(self.layers_weight),
            kept=kept,
        )

    def teacher_of(self, source: str, *, pruning: bool) -> str:
        """The name of the model to learn from, in a run that starts from ``source``.

        Raises:
            RunError: it is not known what ``source`` was pruned from.
        """
        if self.teacher != SOURCE or pruning:
            return source if self.teacher == SOURCE else self.teacher
        recipe = read_recipe(expanded(source))
        found = None if recipe is None else recipe.get("source")
        if not isinstance(found, str):
            raise RunError(
                f"source: {source} does not say what it was pruned from, and it would be its own teacher. "
                "Name a model.",
                key="model.distillation.teacher",
            )
        return found

    def teacher_fingerprint(self, source: str, *, pruning: bool) -> str:
        """Of the model to learn from, which need not be there where the recipe of ``source`` knows it."""
        if self.teacher == SOURCE and not pruning:
            found = (read_recipe(expanded(source)) or {}).get("source_fingerprint")
            if isinstance(found, str) and is_sha256(found):
                return found
        return source_fingerprint(self.teacher_of(source, pruning=pruning))


class Teacher:
    """A frozen model beside the one that is trained: no module of it, so that no checkpoint or reducer sees it."""

    def __init__(self, name: str, *, dtype: torch.dtype, attention: Attention) -> None:
        """Read the weights."""
        self.name, self.dtype = name, str(dtype).removeprefix("torch.")
        self.model: nn.Module = read_model(name, dtype=dtype, attention=attention).eval()
        self.model.requires_grad_(requires_grad=False)

    def to(self, device: torch.device) -> None:
        """Bring it to where the run computes; weights that are sharded are there."""
        self.model.to(device)


def of_gates(asked: Objective, learned: Weights) -> Weights:
    """The objective of the gates, where weights learn from ``learned``: one of its terms, with weight 1."""
    if asked == "language":
        return Weights()
    return replace(learned, language=0.0, divergence=1.0)


class LayerTerm(NamedTuple):
    """What is added to the objective for the streams behind blocks."""

    weight: float
    distance: Callable[[Tensor], Tensor]
    """Of the streams of both models' last passes, by the targets; summed over rows."""


class StepSums(NamedTuple):
    """Sums over all rows that count, as in ``Sums``, and of the streams."""

    total: Tensor
    """The objective, with gradient."""
    language: Tensor
    divergence: Tensor
    tokens: Tensor
    """Cross-entropy of each row."""
    layers: Tensor
    """The distance of the streams, without its weight."""


def step_sums(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    weights: Weights,
    teacher: Teacher | Sparse | None,
    layers: LayerTerm | None = None,
) -> StepSums:
    """The sums of a micro-batch: ``inputs`` with labels, as a stock model takes them."""
    (sums,) = sums_of_each(model, inputs, [weights], teacher, layers)
    return sums


def sums_of_each(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    objectives: Sequence[Weights],
    teacher: Teacher | Sparse | None,
    layers: LayerTerm | None = None,
) -> list[StepSums]:
    """The sums that each of the objectives makes of one pass of a micro-batch; the first has the term of the streams.

    The model passes within the teacher's pass, where the teacher's head is at hand: both heads are gathered, where they
    are sharded, and neither model's logits are ever whole. Of a teacher that was asked before, its answers are given.
    """
    given = {name: part for name, part in inputs.items() if name != "labels"}
    targets = next_tokens(inputs["labels"])
    found: list[StepSums] = []

    def passed(theirs: Given | Sparse | None) -> None:
        def compute(hidden: Tensor, head: Head) -> Any:
            for weights in objectives:
                sums = objective(hidden, head, targets, weights, theirs)
                found.append(StepSums(*sums, torch.zeros_like(sums.language)))
            if layers is not None:
                apart = layers.distance(targets)
                total = found[0].total + layers.weight * apart
                found[0] = found[0]._replace(total=total, layers=apart.detach())
            # The model's own outputs, by which a sharded one sees that backward begins.
            return found[0].total if len(found) == 1 else tuple(sums.total for sums in found)

        with head_computing(model, compute):
            model(**given, use_cache=False)

    if teacher is None or isinstance(teacher, Sparse):
        passed(teacher)
        return found

    def within(hidden: Tensor, head: Head) -> Tensor:
        with torch.enable_grad():
            passed(Given(hidden, head))
        return hidden

    with torch.no_grad(), head_computing(teacher.model, within):
        teacher.model(**given, use_cache=False)
    return found


def teacher_dtype(precision: Any) -> torch.dtype:
    """What the teacher's weights are kept in."""
    return torch.bfloat16 if "bf16" in str(precision) else torch.float32
