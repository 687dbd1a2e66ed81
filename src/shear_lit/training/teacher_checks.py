"""What must hold of a teacher, or of what it has said, before a weight is read."""

import numpy as np

from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.taught.files import TeacherCache
from shear_lit.data.taught.record import CacheRecord, read_record
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.mistakes import Mistake
from shear_lit.models.huggingface import read_config, source_fingerprint
from shear_lit.models.text_check import check_text
from shear_lit.training.distillation import Distillation
from shear_lit.training.errors import RunError
from shear_lit.training.module import ShearingModule
from shear_lit.training.streams import KEY as LAYERS
from shear_lit.training.streams import counterparts


def check_teacher(
    module: ShearingModule, data: DomainData, *, steps: int, sharded: bool, resumed: bool
) -> None:
    """Refuse a teacher, or a cache of one, that cannot serve a run of so many ``steps``.

    Raises:
        RunError, DataError: with the key of what does not fit.
    """
    settings = module.distillation
    if settings is None:
        return
    if settings.cache is None and settings.missing == "compute":
        raise RunError(
            "compute has no effect without a cache: the teacher is asked in every step. Remove it, or name "
            "model.distillation.cache.",
            key="model.distillation.missing",
        )
    if settings.asks_teacher:
        _check_asked(module, data, settings)
    if settings.cache is not None:
        _check_cache(module, data, settings, steps=steps, sharded=sharded, resumed=resumed)
    if settings.layers_weight:
        _check_streams(module, settings)


def _check_asked(module: ShearingModule, data: DomainData, settings: Distillation) -> None:
    """Refuse a teacher that is not there, or that means other things by the same token ids."""
    name = settings.teacher_of(module.source, pruning=module.pruning is not None)
    manifest = data.manifest
    try:
        config, tokenizer = read_config(name), tokenizer_of(name)
    except Mistake as error:
        error.key = "model.distillation.teacher"
        raise
    if not tokenizer.is_of(manifest.tokenizer.fingerprint):
        raise RunError(
            f"{name} has another tokenizer ({tokenizer.fingerprint[:12]}) than the data in {data.manifest.place} "
            f"({manifest.tokenizer.fingerprint[:12]}): by the same token ids it means other things. Use a model that "
            f"has the tokenizer of {module.source}.",
            key="model.distillation.teacher",
        )
    check_text(
        config,
        model=name,
        text=data.manifest.place,
        vocabulary=manifest.tokenizer.vocabulary,
        sequence_length=manifest.sequence_length,
    )


def _check_cache(
    module: ShearingModule,
    data: DomainData,
    settings: Distillation,
    *,
    steps: int,
    sharded: bool,
    resumed: bool,
) -> None:
    """Refuse answers to other questions than those of the run."""
    assert settings.cache is not None
    if settings.objective != "forward_kl":
        raise RunError(
            f"{settings.objective} needs all that the teacher says of each token, and a cache has some of it. "
            "Use forward_kl, or no model.distillation.cache.",
            key="model.distillation.objective",
        )
    if sharded and settings.asks_teacher:
        raise RunError(
            "compute: under trainer.strategy=fsdp2 all processes ask the teacher at once, and they do not lack the "
            "same sequences. Use refuse, or no model.distillation.cache.",
            key="model.distillation.missing",
        )
    record = read_record(settings.cache)
    record.check_data(data.manifest, split=data.split, cross_document_attention=data.cross_document_attention)
    if record.temperature != settings.temperature:
        raise record.refused(
            f"it is of temperature {record.temperature:g}, and the run has "
            f"model.distillation.temperature={settings.temperature:g}"
        )
    _check_same_teacher(module, settings, record)
    if record.vocabulary != (found := module.source_config.vocab_size):
        raise record.refused(
            f"its teacher has {record.vocabulary:,} entries, and the model has {found:,}: their "
            "distributions are over other tokens"
        )
    cache = TeacherCache(record, data.manifest)
    if settings.missing == "refuse" and not resumed:
        _check_covered(cache, data, steps)


def _check_same_teacher(module: ShearingModule, settings: Distillation, record: CacheRecord) -> None:
    asked = settings.teacher_fingerprint(module.source, pruning=module.pruning is not None)
    if asked != record.teacher_fingerprint:
        raise record.refused(
            f"it is of {record.teacher} ({record.teacher_fingerprint[:12]}), and "
            f"model.distillation.teacher={settings.teacher} is another model ({asked[:12]})"
        )


def _check_covered(cache: TeacherCache, data: DomainData, steps: int) -> None:
    """Refuse a cache that lacks a sequence of the steps whose mixture is known: those before it moves first."""
    if data.mixture.rule != "static" and data.mixture.update_at_start:
        return
    state = data.schedule.start([data.proportions[name] for name in data.domains])
    for _ in range(min(steps, data.mixture.update_every_steps)):
        batch, state = data.schedule.next_batch(state)
        for domain in np.unique(batch.domain).tolist():
            drawn = batch.sequence[batch.domain == domain]
            if not cache.has(domain, drawn).all():
                cache.read([(domain, int(number)) for number in drawn])


def _check_streams(module: ShearingModule, settings: Distillation) -> None:
    """Refuse to match streams of which it is not known what belongs to what."""
    if settings.cache is not None:
        raise RunError(
            f"{settings.layers_weight:g} needs the teacher in every step, and a cache is there to do without. "
            "Use 0, or no model.distillation.cache.",
            key=LAYERS,
        )
    pruning = module.pruning is not None
    counterparts(
        module.source,
        module.family.shape,
        fingerprint=source_fingerprint(module.source),
        teacher_fingerprint=settings.teacher_fingerprint(module.source, pruning=pruning),
    )
