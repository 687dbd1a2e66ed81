"""``shear-lit export``: a checkpoint to a Hugging Face directory that has shown that it computes the same."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from shear_lit.models import clients
from shear_lit.models.companions import has_tokenizer, licence_files, source_licence
from shear_lit.models.directories import DirectoryError, check_new_directory
from shear_lit.models.huggingface import (
    Precision,
    SourceError,
    config_of,
    read_config,
    read_model,
    source_fingerprint,
)
from shear_lit.models.registry import (
    WrittenAs,
    carved_config,
    family_of,
    keeps_period,
    parameter_count,
    written_config,
)
from shear_lit.models.targets import PresetName, TargetRequest, kernel_warnings
from shear_lit.models.verification import GATED_TOLERANCE
from shear_lit.models.writing import write_model
from shear_lit.pruning.artefact import GATES, KEPT, gates_file, kept_file, ranked_gates_file
from shear_lit.pruning.expectation import ExpectedUnits, expected_units
from shear_lit.pruning.gates import deterministic_gates
from shear_lit.pruning.periods import blocks_in_period, check_period
from shear_lit.pruning.scores import CRITERIA, LEARNED, Origin, Scores, ScoresError, ranked_gates, read_scores
from shear_lit.pruning.verified_cut import verified_cut
from shear_lit.reporting.model_card import ModelFacts, Selection, model_card
from shear_lit.reporting.recipe import RECIPE, recipe_file, recipes
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
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])


def export(
    checkpoint: str | None = None,
    output: str = "",
    gates: str | None = None,
    target: ModelShape | None = None,
    target_parameters: float | None = None,
    target_flops_fraction: float | None = None,
    target_preset: PresetName | None = None,
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source",
    source: str | None = None,
    write_as: WrittenAs = "source",
    keep_layer_period: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
) -> ExportResult:
    """Cut a model at exactly a target and write it as a Hugging Face directory, verified.

    Either the model in a checkpoint, at its run's target (without gates, as after stage 2, it is written as it is), or
    the source that gates are of, untrained, at any target: all gates of kept units are 1 then.
    Nothing is left behind if a check fails.

    Args:
        checkpoint: File step=NNNNNN.ckpt or directory step=NNNNNN of a run.
        output: Directory to write; it must be new or empty.
        gates: Scores of `shear-lit rank`, or the gates of an export or a run, instead of a checkpoint.
        target: Shape to cut the source to, with `gates`.
        target_parameters: Parameters of the shape to find, instead of `target`.
        target_flops_fraction: Share of the source's multiplications per token of the shape to find, instead.
        target_preset: Name of a published shape, instead.
        dtype: What to store the weights in; `source`: what the source model's are stored in.
        source: Where the source model is now, if it has moved: with `gates` it is cut, and with a checkpoint its
            tokenizer and licence are copied.
        write_as: Model type of what is written, with `gates`: the source's, or `mistral` for a llama model, which
            computes the same and takes any hidden size.
        keep_layer_period: Keep blocks whose kinds alternate as the family's do, with `gates`: some programs take that
            for granted (gemma2, gemma3, smollm3).
    """
    if not output:
        raise DirectoryError("output is missing: say where to write the model. Use --output DIRECTORY.")
    directory = Path(output).expanduser()
    check_new_directory(directory)
    ways = (target, target_parameters, target_flops_fraction, target_preset)
    if (checkpoint is None) == (gates is None):
        raise ScoresError(
            "checkpoint and gates: exactly one says what is cut. Use --checkpoint for the model of a run, "
            "or --gates with --target for its source, cut without training."
        )
    if checkpoint is not None and any(way is not None for way in ways):
        raise ScoresError(
            "target has no effect with a checkpoint, which is cut at the target that its gates were trained for. "
            "Remove it, or cut the source with --gates instead of --checkpoint."
        )
    if checkpoint is not None and write_as != "source":
        raise ScoresError(
            f"write_as={write_as} has no effect with a checkpoint, which is cut as the type that its run was told. "
            f"Remove it, or say model.pruning.write_as={write_as} in the run's configuration."
        )
    if checkpoint is not None and keep_layer_period:
        raise ScoresError(
            "keep_layer_period=true has no effect with a checkpoint, which is cut as its run was told. Remove it, or "
            "say model.pruning.keep_layer_period=true in the run's configuration."
        )
    if gates is None:
        assert checkpoint is not None
        opened, scores = open_checkpoint(checkpoint), None
        facts = opened.facts
    else:
        opened, scores = None, read_scores(gates)
        request = TargetRequest(
            shape=target,
            parameters=target_parameters,
            flops_fraction=target_flops_fraction,
            preset=target_preset,
        )
        facts = _ranked_facts(scores, source or scores.origin.source, request, write_as)
        if keep_layer_period:
            assert facts.target is not None
            check_period(config_of(facts.config), facts.target, key="keep_layer_period")
            facts = replace(facts, keep_layer_period=True)
    return _write(directory, facts, opened=opened, scores=scores, dtype=dtype, source=source)


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
) -> ExportResult:
    """Cut and write; nothing of weights is read before all else is known to fit."""
    config = config_of(facts.config)
    shape = facts.target or family_of(config).shape
    precision = _precision(dtype, facts.config)
    numbers: torch.dtype = getattr(torch, precision)
    check_new_directory(directory, needed_bytes=parameter_count(config, shape) * numbers.itemsize)
    origin = source or facts.source
    warnings = _origin_warnings(origin, facts)
    likely = clients.Written(config=config, shape=shape, period_kept=_keeps_period(config, facts, scores))
    if (said := clients.warning(likely)) is not None:
        _log.info(said)
    if scores is None:
        assert opened is not None
        cut = _cut(opened.read())
    else:
        warnings += kernel_warnings(shape)  # a run has said so at its start
        cut = _ranked_cut(facts, scores)
    written = clients.Written(config=config, shape=shape, period_kept=keeps_period(cut.config))
    who_reads = clients.warning(written)
    card = _card(directory.name, facts, precision, cut, origin)
    write_model(
        directory,
        cut.config,
        cut.tensors,
        companions_of=origin,
        dtype=numbers,
        extra_files={
            **cut.files,
            "README.md": model_card(card),
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


def _cut(contents: ModelCheckpointContents) -> _Cut:
    """Cut at exactly the target and see that the logits stay; without gates all of the model is left.

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
    values = deterministic_gates(contents.log_alpha, target, facts.exact, blocks=blocks)
    cut = verified_cut(contents.tensors, config, values)
    origin = Origin(
        source=facts.source,
        source_fingerprint=facts.source_fingerprint,
        source_shape=family.shape,
        criterion=LEARNED,
    )
    return _Cut(
        config=cut.config,
        tensors=cut.tensors,
        difference=cut.difference,
        selection=Selection(criterion=LEARNED, meaning=CRITERIA.get(facts.ordered_by or "", "")),
        expected=tuple(expected_units(contents.log_alpha, target, facts.exact)),
        files={
            GATES: gates_file(contents.log_alpha, origin, exact=facts.exact, values=values),
            KEPT: kept_file(values, origin, contents.log_alpha, facts.exact),
        },
    )


def _ranked_cut(facts: CheckpointFacts, scores: Scores) -> _Cut:
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
    return _Cut(
        config=cut.config,
        tensors=cut.tensors,
        difference=cut.difference,
        selection=selection_of(scores.origin),
        files={
            GATES: ranked_gates_file(scores, values),
            KEPT: kept_file(values, scores.origin),
        },
    )


def selection_of(origin: Origin) -> Selection:
    """What a card says of a cut at scores, or at the gates of another run, without training."""
    learned = origin.criterion == LEARNED
    return Selection(
        criterion="gates of a run" if learned else origin.criterion,
        meaning="the gates that a run learned"
        if learned
        else CRITERIA.get(origin.criterion, origin.criterion),
        data_fingerprint=origin.data_fingerprint,
        sequences=origin.sequences,
        tokens=origin.tokens,
    )


def _ranked_blocks(facts: CheckpointFacts, scores: Scores) -> tuple[int, ...] | None:
    if not facts.keep_layer_period or Axis.LAYERS not in facts.axes:
        return None
    assert facts.target is not None
    return blocks_in_period(scores.importance[Axis.LAYERS], config_of(facts.config), facts.target)


def _card(name: str, facts: CheckpointFacts, dtype: str, cut: _Cut, origin: str) -> ModelFacts:
    config = config_of(facts.config)
    family = family_of(config)
    shape = facts.target or family.shape
    earlier = recipes(Path(origin).expanduser())
    return ModelFacts(
        name=name,
        source=facts.source,
        lineage=tuple(str(recipe.get("source")) for recipe in earlier),
        source_fingerprint=facts.source_fingerprint,
        licence=source_licence(origin),
        licence_files=tuple(licence_files(origin)),
        source_shape=family.shape,
        shape=shape,
        source_parameters=parameter_count(config),
        parameters=parameter_count(config, shape),
        dtype=dtype,
        selection=cut.selection,
        earlier=earlier,
        step=facts.step,
        tokens=facts.tokens,
        domains=facts.domains,
        losses=facts.losses,
        gated_difference=cut.difference,
        gates=GATES,
        clients=clients.lines(cut.config),
    )


def _precision(dtype: str, config: Mapping[str, Any]) -> Precision:
    """The dtype to write; a config that does not name its own is taken to mean float32."""
    if dtype == "source":
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
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
    if Path(origin).expanduser().is_dir() and source_fingerprint(origin) != facts.source_fingerprint:
        warnings.append(
            f"{origin!r} is not the model that the run started from, or was changed since: tokenizer and licence were "
            f"copied from it as it is now."
        )
    return warnings
