"""From a checkpoint, or scores, to a Hugging Face directory that has shown that it computes the same."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shear_lit.commands.carding import card_of, selection_of
from shear_lit.commands.failures import UsageError
from shear_lit.commands.making import Making, making_of_cut, making_of_run, options_of_export
from shear_lit.commands.repairing import Repair, RepairRequest, open_repair
from shear_lit.disk.names import expanded
from shear_lit.evaluation.end_of_turn import keep_template
from shear_lit.evaluation.tokenizer import keep_tokenizer
from shear_lit.models import clients
from shear_lit.models.choices import Precision, WrittenAs
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.directories import check_new_directory
from shear_lit.models.huggingface import (
    SourceError,
    config_of,
    read_config,
    read_model,
    source_fingerprint,
    stored_dtype,
)
from shear_lit.models.publishing import Pushed
from shear_lit.models.registry import (
    carved_config,
    family_of,
    keeps_period,
    parameter_count,
    written_config,
)
from shear_lit.models.targets import TargetRequest, kernel_warnings
from shear_lit.models.verification import GATED_TOLERANCE
from shear_lit.models.writing import write_model
from shear_lit.pruning.artefact import GATES, KEPT, gates_file, kept_file, ranked_gates_file
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.constraints import GateValues
from shear_lit.pruning.expectation import ExpectedUnits, expected_units
from shear_lit.pruning.periods import blocks_in_period, check_period
from shear_lit.pruning.starts import ranked_gates
from shear_lit.pruning.verified_cut import verified_cut
from shear_lit.ranking.criteria import meaning
from shear_lit.ranking.scores import LEARNED, Origin, Scores, read_scores
from shear_lit.reporting.model_card import CARD, model_card
from shear_lit.reporting.model_facts import RepairFacts, Selection
from shear_lit.reporting.recipe import RECIPE, recipe_file
from shear_lit.reporting.repair_page import REPAIR_PAGE
from shear_lit.theory.shape import Axis, ModelShape, shrinking_axes
from shear_lit.training.checkpoints import (
    CheckpointFacts,
    ModelCheckpointContents,
    OpenedCheckpoint,
    open_checkpoint,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written, and what the checks found."""

    directory: str
    """Where the model lies."""
    shape: ModelShape
    """Its shape."""
    source_parameters: int
    """Parameters of the model in the checkpoint."""
    parameters: int
    """Parameters of the written model."""
    dtype: str
    """What its weights are stored in."""
    gated_difference: float | None
    """Largest difference of gated and carved logits in float32, relative to the largest; None where nothing was cut."""
    expected: tuple[ExpectedUnits, ...]
    """What the gates kept in expectation, by axis."""
    warnings: tuple[str, ...]
    """What the user should know before using the model."""
    pushed: Pushed | None = None
    """The commit on the hub, if it was pushed."""

    def __str__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.shape.to_dict().items())
        lines = [
            f"exported to {self.directory} ({self.dtype})",
            f"shape: {sizes}",
            f"parameters: {self.parameters:,} of {self.source_parameters:,} "
            f"({self.parameters / self.source_parameters:.1%})",
        ]
        if self.gated_difference is not None:
            lines.append(
                f"gated against carved logits, float32: max |difference| = {self.gated_difference:.2g} of the largest "
                f"logit (at most {GATED_TOLERANCE:g})"
            )
        lines.append(f"written against reloaded, {self.dtype}: parameters and logits equal bit for bit")
        if self.pushed is not None:
            lines.append(str(self.pushed))
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])


def from_checkpoint(
    checkpoint: str,
    directory: Path,
    *,
    dtype: str = "source",
    source: str | None = None,
    repair: RepairRequest | None = None,
) -> ExportResult:
    """Cut the model of a checkpoint at its run's target and write it; ``export`` says what the arguments are."""
    opened = open_checkpoint(expanded(checkpoint))
    if repair is not None and opened.facts.target is None:
        raise UsageError(
            "repair has no effect: the checkpoint is of a run without gates, and nothing of its model is cut. "
            "Remove it."
        )
    making = making_of_run(expanded(checkpoint), opened.facts, options_of_export(dtype, repair))
    return _write(
        directory,
        opened.facts,
        opened=opened,
        scores=None,
        dtype=dtype,
        source=source,
        repair=repair,
        making=making,
    )


def from_gates(
    gates: str,
    directory: Path,
    *,
    request: TargetRequest,
    dtype: str = "source",
    source: str | None = None,
    write_as: WrittenAs = "source",
    keep_layer_period: bool = False,
    repair: RepairRequest | None = None,
) -> ExportResult:
    """Cut the source that gates are of, untrained, and write it; ``export`` says what the arguments are."""
    scores = read_scores(gates)
    facts = _ranked_facts(scores, source or scores.origin.source, request, write_as)
    if keep_layer_period:
        assert facts.target is not None
        check_period(config_of(facts.config), facts.target, key="keep_layer_period")
        facts = replace(facts, keep_layer_period=True)
    assert facts.target is not None
    options = {
        "source": facts.source,
        **{f"target.{axis}": size for axis, size in facts.target.to_dict().items()},
        **({} if write_as == "source" else {"write_as": write_as}),
        **({"keep_layer_period": "true"} if keep_layer_period else {}),
        **options_of_export(dtype, repair),
    }
    return _write(
        directory,
        facts,
        opened=None,
        scores=scores,
        dtype=dtype,
        source=source,
        repair=repair,
        making=making_of_cut(GATES, options, scores.origin.data_fingerprint),
    )


def _ranked_facts(
    scores: Scores, source: str, request: TargetRequest, write_as: WrittenAs
) -> CheckpointFacts:
    """What a checkpoint of the source that is cut without training would say of itself.

    Raises:
        ScoresError: the scores are not of the source, or do not order what the target shrinks.
        ShapeError: the target cannot be cut from it.
        FamilyError: it cannot be written as that type.
    """
    config = written_config(read_config(source), write_as)
    family = family_of(config)
    scores.check_source(family.shape, fingerprint=source_fingerprint(source))
    shape = request.resolve(config)
    axes = shrinking_axes(family.shape, shape)
    family.check_target(shape)
    scores.check_axes(axes)
    return CheckpointFacts(
        source=source,
        source_fingerprint=scores.origin.source_fingerprint,
        config=config.to_dict(),
        target=shape,
        axes=axes,
        step=0,
        tokens=0,
    )


def _write(
    directory: Path,
    facts: CheckpointFacts,
    *,
    opened: OpenedCheckpoint | None,
    scores: Scores | None,
    dtype: str,
    source: str | None,
    repair: RepairRequest | None,
    making: Making,
) -> ExportResult:
    """Cut and write; nothing of weights is read before all else is known to fit."""
    config = config_of(facts.config)
    shape = facts.target or family_of(config).shape
    origin = source or facts.source
    warnings = _origin_warnings(origin, facts)
    precision = _precision(dtype, facts.config, origin)
    numbers: torch.dtype = getattr(torch, precision)
    check_new_directory(directory, needed_bytes=parameter_count(config, shape) * numbers.itemsize)
    likely = clients.Written(config=config, shape=shape, period_kept=_keeps_period(config, facts, scores))
    if (said := clients.warning(likely)) is not None:
        _log.info(said)
    repairs = None
    if repair is not None:
        if source_fingerprint(origin) != facts.source_fingerprint:
            raise SourceError(
                f"{origin!r} is not the model that was cut, or was changed since: a repair is towards that model. "
                f"Name it, or export without --repair.",
                key="source",
            )
        repairs = open_repair(repair, origin, config, shape)
    _log.info("cutting %s to %s parameters", origin, f"{parameter_count(config, shape):,}")
    if scores is None:
        assert opened is not None
        cut = _cut(opened.read(), origin, repairs)
    else:
        warnings += kernel_warnings(shape)  # a run has said so at its start
        cut = _ranked_cut(facts, scores, repairs)
    written = clients.Written(config=config, shape=shape, period_kept=keeps_period(cut.config))
    who_reads = clients.warning(written)
    card, beside = card_of(
        directory.name,
        facts,
        origin,
        config=cut.config,
        dtype=precision,
        difference=cut.difference,
        selection=cut.selection,
        repair=cut.repair,
        kept=None if cut.values is None else kept_units(cut.values, family_of(config).shape),
        making=making,
    )
    _log.info("writing %s, and reading it back to compare", directory)
    write_model(
        directory,
        cut.config,
        cut.tensors,
        companions_of=origin,
        dtype=numbers,
        check_companions=_companions_kept(facts.chat_template),
        extra_files={
            **cut.files,
            **beside,
            CARD: model_card(card),
            RECIPE: recipe_file(
                card,
                axes=[axis.value for axis in facts.axes],
                expected_units={axis.axis.value: axis.to_dict() for axis in cut.expected},
            ),
        },
    )
    return ExportResult(
        directory=str(directory),
        shape=shape,
        source_parameters=card.source_parameters,
        parameters=card.parameters,
        dtype=precision,
        gated_difference=cut.difference,
        expected=cut.expected,
        warnings=(
            *warnings,
            *(str(axis) for axis in cut.expected if axis.off_target),
            *([who_reads] if who_reads else []),
        ),
    )


def _companions_kept(template: str | None) -> Callable[[Path], None]:
    """What puts right what was copied of a source: its tokenizer, its template, and where generation stops."""

    def keep(directory: Path) -> None:
        keep_tokenizer(directory)
        keep_template(directory, template)

    return keep


def _keeps_period(config: Any, facts: CheckpointFacts, scores: Scores | None) -> bool:
    """Whether blocks will alternate as the family's do; of learned gates that nobody told to, no."""
    if facts.keep_layer_period or facts.target is None or Axis.LAYERS not in facts.axes:
        return keeps_period(config)
    period = family_of(config).period
    if period is None or scores is None:
        return period is None
    kept = ranked_gates(scores.importance, scores.origin.source_shape, facts.target)[Axis.LAYERS]
    return period.kept_by([getattr(config, period.listed)[block] for block in kept.nonzero()[:, 0].tolist()])


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """The model that is left of a checkpoint, and what is known of the cut."""

    config: Any
    tensors: Mapping[str, Tensor]
    difference: float | None = None
    selection: Selection | None = None
    expected: tuple[ExpectedUnits, ...] = ()
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    repair: RepairFacts | None = None
    values: GateValues | None = None

    def repaired(self, repair: Repair, source: Any, values: GateValues) -> "_Cut":
        """The same, refitted towards ``source``."""
        tensors, facts, page = repair.of(self.tensors, self.config, source, values)
        return replace(self, tensors=tensors, repair=facts, files={**self.files, REPAIR_PAGE: page})


def _cut(contents: ModelCheckpointContents, origin: str, repair: Repair | None) -> _Cut:
    """Cut at exactly the target and see that the logits stay; without gates all of the model is left.

    A repair is towards the run's source, which is read from ``origin``.

    Raises:
        VerificationError: gated and carved logits differ by more than the tolerance.
    """
    facts, target = contents.facts, contents.facts.target
    config = config_of(facts.config)
    family = family_of(config)
    if target is None:
        return _Cut(config=carved_config(config, family.shape), tensors=contents.tensors)
    blocks = None
    if facts.keep_layer_period and Axis.LAYERS in contents.log_alpha:
        blocks = blocks_in_period(contents.log_alpha[Axis.LAYERS], config, target)
    values = facts.constraint.standing(contents.log_alpha, target, blocks=blocks)
    cut = verified_cut(contents.tensors, config, values)
    learned = Origin(
        source=facts.source,
        source_fingerprint=facts.source_fingerprint,
        source_shape=family.shape,
        criterion=LEARNED,
    )
    found = _Cut(
        config=cut.config,
        tensors=cut.tensors,
        difference=cut.difference,
        selection=Selection(criterion=LEARNED, meaning=meaning(facts.ordered_by or "")),
        expected=tuple(expected_units(contents.log_alpha, target, facts.constraint)),
        files={
            GATES: gates_file(contents.log_alpha, learned, constraint=facts.constraint, values=values),
            KEPT: kept_file(values, learned, contents.log_alpha, facts.constraint),
        },
        values=values,
    )
    if repair is None:
        return found
    return found.repaired(repair, read_model(origin, dtype=torch.float32), values)


def _ranked_cut(facts: CheckpointFacts, scores: Scores, repair: Repair | None) -> _Cut:
    """Cut the source at the units with the highest scores.

    Raises:
        VerificationError: gated and carved logits differ by more than the tolerance.
    """
    assert facts.target is not None
    config = config_of(facts.config)
    model = read_model(facts.source, dtype=torch.float32)
    values = ranked_gates(
        scores.importance,
        scores.origin.source_shape,
        facts.target,
        blocks=_ranked_blocks(facts, scores),
    )
    cut = verified_cut(dict(model.named_parameters()), config, values)
    found = _Cut(
        config=cut.config,
        tensors=cut.tensors,
        difference=cut.difference,
        selection=selection_of(scores.origin),
        files={
            GATES: ranked_gates_file(scores, values),
            KEPT: kept_file(values, scores.origin),
        },
        values=values,
    )
    return found if repair is None else found.repaired(repair, model, values)


def _ranked_blocks(facts: CheckpointFacts, scores: Scores) -> tuple[int, ...] | None:
    if not facts.keep_layer_period or Axis.LAYERS not in facts.axes:
        return None
    assert facts.target is not None
    return blocks_in_period(scores.importance[Axis.LAYERS], config_of(facts.config), facts.target)


def _precision(dtype: str, config: Mapping[str, Any], origin: str) -> Precision:
    """The dtype to write; where the source's config does not name its own, that of most numbers in its files."""
    if dtype == "source":
        named = config.get("dtype") or config.get("torch_dtype") or stored_dtype(origin)
        dtype = str(named).removeprefix("torch.")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise SourceError(
            f"dtype: the source's weights are stored in {dtype!r}, which is not written. "
            f"Choose --dtype float32, bfloat16 or float16."
        )
    return dtype  # type: ignore[return-value]


def _origin_warnings(origin: str, facts: CheckpointFacts) -> list[str]:
    """What is odd about the place that tokenizer and licence come from, before any weight is read.

    Raises:
        SourceError: there is no model there.
    """
    try:
        read_config(origin)
    except SourceError as error:
        raise SourceError(
            f"source={origin!r}, from which tokenizer and licence are copied, cannot be read: {error} "
            f"Say where it is now with --source."
        ) from error
    warnings = []
    if not has_tokenizer(origin):
        warnings.append(f"{origin!r} has no tokenizer files: the exported model has none either.")
    if expanded(origin).is_dir() and source_fingerprint(origin) != facts.source_fingerprint:
        warnings.append(
            f"{origin!r} is not the model that the run started from, or was changed since: tokenizer and licence were "
            f"copied from it as it is now."
        )
    return warnings
