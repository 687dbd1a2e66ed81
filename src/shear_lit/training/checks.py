"""What must hold between the parts of a run; all of it is checked before any weight is read."""

import logging
import math
import shutil
from pathlib import Path

import lightning as L

from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.evaluation.domain_loss import reported
from shear_lit.evaluation.repair_text import check_enough, data_batches
from shear_lit.models.adapters import check_adapters
from shear_lit.models.clients import Written
from shear_lit.models.clients import warning as client_warning
from shear_lit.models.huggingface import config_of, source_fingerprint
from shear_lit.models.registry import family_of, parameter_count
from shear_lit.models.targets import kernel_warnings
from shear_lit.models.text_check import check_text
from shear_lit.pruning.constraints import Exact
from shear_lit.pruning.periods import check_period
from shear_lit.ranking.criteria import criteria_by_axis
from shear_lit.ranking.scores import read_scores
from shear_lit.theory.shape import Axis
from shear_lit.training.checkpoints import CheckpointFacts, read_facts
from shear_lit.training.errors import RunError
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_start import check_directory
from shear_lit.training.shipped import check_watched
from shear_lit.training.strategies import FSDP2Strategy
from shear_lit.training.teacher_checks import check_teacher

_log = logging.getLogger(__name__)
_BYTES_PER_PARAMETER = 12
"""Of a checkpoint: the weight and AdamW's two moments, in float32."""
_BYTES_PER_FROZEN_PARAMETER = 5
"""Likewise of a weight that adapters lie beside, with room for them."""


def check_run(
    module: ShearingModule, data: DomainData, trainer: L.Trainer, *, checkpoint: str | None, fitting: bool
) -> None:
    """Refuse a run whose parts do not fit together, with the key to change.

    Raises:
        RunError, DataError, TextError, CheckpointError: one of them names what does not fit.
    """
    facts = None
    if checkpoint is not None:
        if (Path(checkpoint) / "meta.pt").is_file() and not isinstance(trainer.strategy, FSDP2Strategy):
            raise RunError(
                f"ckpt_path={checkpoint} is a directory of shards, which trainer.strategy="
                f"{type(trainer.strategy).__name__} cannot read. Use trainer.strategy=fsdp2 (one process will do)."
            )
        facts = read_facts(checkpoint)
        module.go_on_from(facts.source)
    _check_data_fits_model(module, data)
    if not fitting:
        data.check_data()
    else:
        data.check(world_size=trainer.world_size, max_steps=trainer.max_steps)
        check_watched(trainer.callbacks, reported(data.domains, [0.0] * len(data.domains)))  # type: ignore[attr-defined]
        _check_epochs(data, trainer.max_steps, facts)
        _check_durations(module, trainer)
        _check_adapters(module)
        _check_pruning(module)
        _check_repair(module, data, trainer)
        _check_ends(module, trainer)
        _check_objective(module)
        check_teacher(
            module,
            data,
            steps=trainer.max_steps,
            sharded=isinstance(trainer.strategy, FSDP2Strategy),
            resumed=checkpoint is not None,
        )
        if trainer.is_global_zero:  # which may have begun to write there when another one looks
            check_directory(Path(trainer.default_root_dir), checkpoint)
        _check_disk(module, Path(trainer.default_root_dir))
    if facts is not None:
        _check_checkpoint(module, facts, str(checkpoint))


def _check_data_fits_model(module: ShearingModule, data: DomainData) -> None:
    config, manifest = module.source_config, data.manifest
    check_text(
        config,
        model=module.source,
        text=data.manifest.place,
        vocabulary=manifest.tokenizer.vocabulary,
        sequence_length=manifest.sequence_length,
    )
    tokenizer = tokenizer_of(module.source)
    if not tokenizer.is_of(manifest.tokenizer.fingerprint):
        raise RunError(
            f"data.directory={data.manifest.place} was tokenised by {manifest.tokenizer.name} (fingerprint "
            f"{manifest.tokenizer.fingerprint[:12]}), and model.source={module.source} has another tokenizer "
            f"({tokenizer.fingerprint[:12]}): its token ids mean other things. "
            f"Prepare the data again with the model's tokenizer."
        )


def _check_epochs(data: DomainData, steps: int, facts: CheckpointFacts | None) -> None:
    """Refuse a run that is sure to reach the caps of its domains before it ends, and say how long it can be.

    What a run has read that goes on was read in batches of any size.
    """
    caps, mixture = data.mixture.max_epochs, data.mixture
    by_name = caps if isinstance(caps, dict) else dict.fromkeys(data.domains, caps)
    sizes = data.manifest.chunk_sizes(data.split)
    drawn = [name for name in data.domains if data.proportions[name] > 0]
    limits = [by_name.get(name) for name in drawn]
    if any(limit is None for limit in limits):
        return
    most = sum(
        math.floor(float(limit or 0) * sum(sizes[name])) for name, limit in zip(drawn, limits, strict=True)
    )
    done, read = (0, 0) if facts is None else (facts.step, facts.tokens // data.manifest.sequence_length)
    longest = done + max(0, most - read) // data.global_batch
    possible = longest // mixture.update_every_steps * mixture.update_every_steps
    if steps > longest:
        way = (
            f"Use trainer.max_steps={possible}"
            if possible
            else "Use a smaller data.mixture.update_every_steps"
        )
        raise RunError(
            f"{steps}: so many batches of {data.global_batch} sequences read the text more often than "
            f"data.mixture.max_epochs={caps} allows, which is {most:,} sequences. {way}, raise max_epochs, or prepare "
            f"more text.",
            key="trainer.max_steps",
        )


def _check_durations(module: ShearingModule, trainer: L.Trainer) -> None:
    durations = {"model.optimizer.warmup_steps": module.optimizer_settings.warmup_steps}
    if module.pruning is not None:
        durations["model.pruning.sparsity_warmup_steps"] = module.pruning.sparsity_warmup_steps
    for key, steps in durations.items():
        if steps > trainer.max_steps:
            raise RunError(
                f"{key}={steps} is longer than the run, trainer.max_steps={trainer.max_steps}: it would never end. "
                f"Use {key}={trainer.max_steps // 10 or 1}, or a longer run."
            )


def _check_pruning(module: ShearingModule) -> None:
    if module.pruning is None:
        return
    if module.pruning.keep_layer_period:
        check_period(module.source_config, module.pruning.shape, key="model.pruning.keep_layer_period")
    written = Written(
        config=module.source_config,
        shape=module.pruning.shape,
        period_kept=module.family.period is None
        or Axis.LAYERS not in module.axes
        or module.pruning.keep_layer_period,
    )
    who_reads = client_warning(written)
    for warning in [*kernel_warnings(module.pruning.shape), *([who_reads] if who_reads else [])]:
        _log.warning("WARNING: %s", warning)
    if module.pruning.ranked and module.pruning.initial_scores is None:
        criteria = criteria_by_axis(module.pruning.ranking, key="model.pruning.ranking")
        if missing := [axis.value for axis in module.axes if axis not in criteria]:
            raise RunError(
                f"model.pruning.ranking={module.pruning.ranking} does not order {', '.join(missing)}, which the target "
                f"shrinks. Name it for its axes alone, as {{layers: {module.pruning.ranking}}}."
            )
    if module.pruning.initial_scores is not None:
        scores = read_scores(module.pruning.initial_scores)
        scores.check_source(module.family.shape, fingerprint=source_fingerprint(module.source))
        scores.check_axes(module.axes)


def _check_adapters(module: ShearingModule) -> None:
    if module.lora is None:
        return
    if module.pruning is not None:
        raise RunError(
            f"{module.lora.rank}: adapters and gates do not go together: a cut takes units of weights, and adapters "
            f"leave weights as they are. Leave model.lora out, or use model.pruning=null and tune the export.",
            key="model.lora.rank",
        )
    check_adapters(module.lora, module.source_config)


def _check_repair(module: ShearingModule, data: DomainData, trainer: L.Trainer) -> None:
    """Refuse to repair on so little text that nothing can be fitted to it, or a cut after which nothing is trained."""
    if module.pruning is None or module.pruning.repair is None:
        return
    if module.stages and module.pruning.sparsity_warmup_steps >= trainer.max_steps:
        raise RunError(
            f"model.pruning.sparsity_warmup_steps={module.pruning.sparsity_warmup_steps}: the last stage of the fall "
            f"begins where the run ends, trainer.max_steps={trainer.max_steps}, and its cut would not be repaired. "
            f"Use a shorter fall, or a longer run."
        )
    repair = module.pruning.repair
    sizes = data_batches(repair, data.manifest, data.split)
    held = [min(sum(chunks), sizes["sequences"]) for chunks in data.manifest.chunk_sizes(data.split).values()]
    check_enough(
        sum(held) * data.manifest.sequence_length + int(repair.tokens * repair.generated_fraction),
        module.family,
        module.stages[0] if module.stages else module.pruning.shape,
        split=data.split,
        key="model.pruning.repair.tokens",
    )


def _check_ends(module: ShearingModule, trainer: L.Trainer) -> None:
    """Refuse gates of the cut while the model is larger than the cut."""
    if module.pruning is None or module.pruning.draws.hard_from_fraction == 1:
        return
    begins = module.pruning.draws.hard_from_fraction * trainer.max_steps
    if begins < module.pruning.sparsity_warmup_steps:
        raise RunError(
            f"model.pruning.draws.hard_from_fraction={module.pruning.draws.hard_from_fraction} of trainer.max_steps="
            f"{trainer.max_steps} comes before sizes have arrived, model.pruning.sparsity_warmup_steps="
            f"{module.pruning.sparsity_warmup_steps}: all units beyond the target would leave at once. Use a larger "
            f"fraction, or a shorter warm-up."
        )


def _check_objective(module: ShearingModule) -> None:
    """Refuse an objective of the gates that is not there, or is no other than that of the weights."""
    if module.pruning is None or module.pruning.objective == "same":
        return
    asked, taught = module.pruning.objective, module.distillation
    why = ""
    if taught is None:
        why = "there is no teacher (model.distillation=null), and weights learn from cross-entropy"
    elif asked == "distillation" and taught.language_weight == 0:
        why = "weights learn from the teacher alone (model.distillation.language_weight=0), too"
    elif module.optimizer_settings.gates_learning_rate == 0:
        why = "gates do not learn (model.optimizer.gates_learning_rate=0)"
    if why:
        raise RunError(
            f"model.pruning.objective={asked} has no effect: {why}. "
            f"Use model.pruning.objective=same, or change that."
        )


def _check_disk(module: ShearingModule, directory: Path) -> None:
    each = _BYTES_PER_PARAMETER if module.lora is None else _BYTES_PER_FROZEN_PARAMETER
    needed = each * parameter_count(module.source_config)
    existing = next(path for path in (directory.resolve(), *directory.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    # The newest checkpoint is written before the oldest one goes.
    if free < 2 * needed:
        raise RunError(
            f"trainer.default_root_dir={directory}: {free / 1e9:.1f} GB are free there, and two checkpoints of "
            f"{needed / 1e9:.1f} GB each must fit. Free some space, or name a directory on another disk."
        )


def _check_checkpoint(module: ShearingModule, facts: CheckpointFacts, checkpoint: str) -> None:
    target = None if module.pruning is None else module.pruning.target
    shape = module.family.shape.to_dict()
    found = family_of(config_of(facts.config)).shape.to_dict()
    if found != shape:
        raise RunError(
            f"ckpt_path={checkpoint} holds a model of shape {found}, and model.source={module.source} has {shape}. "
            f"Resume with the configuration of the run that wrote it."
        )
    if facts.target != target or facts.axes != module.axes:
        raise RunError(
            f"ckpt_path={checkpoint} is of a run with model.pruning.target={_said(facts.target)}, and this one has "
            f"{_said(target)}. Resume with the configuration of the run that wrote it; to go on from a pruned model, "
            f"export it and name the export as model.source."
        )
    adapters = None if module.lora is None else module.lora.to_entry()
    if facts.lora != adapters:
        raise RunError(
            f"ckpt_path={checkpoint} is of a run with model.lora={_said(facts.lora)}, and this one has "
            f"{_said(adapters)}. Resume with the configuration of the run that wrote it; to go on from a tuned model, "
            f"export it and name the export as model.source."
        )
    constraint = "exact" if isinstance(facts.constraint, Exact) else "lagrangian"
    if module.pruning is not None and module.pruning.constraint != constraint:
        raise RunError(
            f"ckpt_path={checkpoint} is of a run with model.pruning.constraint={constraint}, and this one has "
            f"{module.pruning.constraint}: its gates mean other sizes. Use model.pruning.constraint={constraint}."
        )


def _said(target: object) -> str:
    return "null" if target is None else str(target)
