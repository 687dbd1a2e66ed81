"""What stage 1 does before a step: gates begin in an order, and the cut that they are at is repaired."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from shear_lit.disk.writing import write_file
from shear_lit.evaluation.calibration import CalibrationText
from shear_lit.evaluation.repair_text import data_batches, repair_text
from shear_lit.models.huggingface import without_flash_attention
from shear_lit.pruning.settings import Pruning, RepairSettings
from shear_lit.pruning.starts import initial_log_alpha
from shear_lit.ranking.importance import Importance
from shear_lit.ranking.magnitude import whole
from shear_lit.ranking.measuring import measure
from shear_lit.ranking.scores import read_scores
from shear_lit.reporting.model_facts import RepairFacts
from shear_lit.reporting.repair_page import REPAIR_PAGE, repair_page
from shear_lit.theory.shape import ModelShape
from shear_lit.training.module import ShearingModule
from shear_lit.training.repairing import repair_in_place, source_tensors


def order_gates(module: ShearingModule, pruning: Pruning) -> None:
    """Start the gates by the importance of their units: that of a file, or measured on training text."""
    assert module.gates is not None
    if pruning.initial_scores is None:
        importance = measured_importance(module, pruning)
    else:
        importance = read_scores(pruning.initial_scores).importance
    module.gates.start_from(
        initial_log_alpha(
            importance, pruning.shape, is_exact=pruning.constraint == "exact", gap=pruning.initial_gap
        )
    )
    if pruning.repair is not None and pruning.starts_at_a_cut:
        _repair(module, pruning.repair, pruning.shape, stage=0)


def stage_to_repair(module: ShearingModule) -> int:
    """The stage of the fall that has begun and of which the cut is not repaired yet; 0 where there is none."""
    if module.pruning is None or module.pruning.repair is None or not module.stages:
        return 0
    begun = module.schedule.stage(module.step)
    return begun if begun > (module.repaired or {}).get("stages", 0) else 0


def repair_stage(module: ShearingModule, stage: int) -> None:
    """Refit the cut of a stage that has begun, towards the source as it was read when the run began."""
    assert module.pruning is not None and module.pruning.repair is not None
    source = source_tensors(module.source, module.source_fingerprint)
    _repair(module, module.pruning.repair, module.stages[stage - 1], stage=stage, source=source)


def measured_importance(module: ShearingModule, pruning: Pruning) -> Importance:
    """The importance of all units, all gates open, the same on every rank.

    It is that of float32 whatever ``trainer.precision`` says; under FSDP2 with bf16-mixed, where weights are gathered
    in bfloat16 for all passes, that of bfloat16, which differs from it by rounding.
    """
    assert module.attached is not None and module.model is not None
    text = CalibrationText(
        module.training_sample(sequences=pruning.calibration_sequences, micro_batch=1), module.device
    )
    with without_flash_attention(module.model), torch.autocast(module.device.type, enabled=False):
        found = measure(
            module.model,
            module.family,
            text,
            module.criteria(pruning),
            set_gates=module.attached.set,
            device=module.device,
            reduce=module.sum_over_ranks,
            seed=module.seed,
        )
    module.zero_grad()
    return found.importance


def _repair(
    module: ShearingModule,
    repair: RepairSettings,
    shape: ModelShape,
    *,
    stage: int,
    source: Mapping[str, Tensor] | None = None,
) -> None:
    """Refit the cut of the gates to ``shape`` in the weights of the whole model, which may be the source itself."""
    assert module.gates is not None and module.model is not None
    log_alpha = {axis: whole(rows).detach().cpu() for axis, rows in module.gates.log_alpha().items()}
    values = module.constraint().standing(log_alpha, shape)
    batches = data_batches(repair, module.data.manifest, module.data.split)
    sample = module.training_sample(**batches)
    text = repair_text(repair, module.data.manifest, sample, module.source, module.device)
    found = repair_in_place(
        module.model,
        module.source_config,
        {axis: (gates != 0).float() for axis, gates in values.items()},
        text,
        parts=repair.parts,
        device=module.device,
        reduce=module.sum_over_ranks,
        source=source,
    )
    read = torch.tensor([text.data.tokens, text.data.sequences])
    tokens, sequences = module.sum_over_ranks(read).tolist()
    facts = RepairFacts(
        tokens=int(tokens),
        sequences=int(sequences),
        generated_tokens=text.generated_tokens,
        data_fingerprint=module.data.manifest.fingerprint,
        parts=repair.parts,
        weights=len(found),
        refitted=sum(item.refitted for item in found),
        stages=stage,
    )
    module.repaired = asdict(facts)
    if module.trainer.is_global_zero:
        name = f"repair-stage={stage}.md" if stage else REPAIR_PAGE
        write_file(Path(module.trainer.default_root_dir) / name, repair_page(found, facts))
