"""A small suite of downstream tasks while a run goes on: asked of the model as it would be cut now."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from shear_lit.evaluation.suites.processes import Processes, first_batch_size
from shear_lit.evaluation.suites.suite import Suite
from shear_lit.models.adapters import merged
from shear_lit.models.huggingface import build_model
from shear_lit.models.registry import carved_config
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.ranges import Count, as_plain_numbers
from shear_lit.ranking.magnitude import whole
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_directory import whole_gates

_log = logging.getLogger(__name__)
_SAMPLE = 16384


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Downstream tasks that a run is asked while it goes on."""

    suite: str | None = None
    """Suite of `shear-lit evaluate --suite` to ask of the model as it would be cut now; null: none."""
    every_n_steps: Count = 1000
    """Optimizer steps from one time to the next; also after the last step."""
    questions: Count = 100
    """At most so many questions of each single task."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)


class SuiteStep:
    """Asks the suite; every process takes part, and no random state is touched."""

    def __init__(self, suite: Suite, settings: EvaluationSettings) -> None:
        self.suite, self.settings = suite, settings
        self.asked_at_step = 0
        """The optimizer step of the last time."""

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether this is a step to ask at."""
        step = trainer.global_step
        due = step % self.settings.every_n_steps == 0 or step >= trainer.max_steps
        return due and step > self.asked_at_step

    @torch.no_grad()
    def ask(self, trainer: L.Trainer, module: ShearingModule) -> dict[str, float]:
        """Ask, write what was found beside the run's checkpoints, and return the figures by name."""
        from shear_lit.data.tokens.conversions import beside
        from shear_lit.evaluation.suites.answering import SharedModel
        from shear_lit.evaluation.suites.asking import random_state_kept
        from shear_lit.evaluation.suites.kept import KeptResults
        from shear_lit.evaluation.suites.measuring import Subject, measure_suite
        from shear_lit.evaluation.suites.registry import quiet_harness, resolve
        from shear_lit.evaluation.suites.results import scores_of

        self.asked_at_step = trainer.global_step
        processes = Processes(rank=trainer.global_rank, size=trainer.world_size)
        folder = Path(trainer.default_root_dir) / "suite" / f"step={trainer.global_step:06d}"
        with random_state_kept(), quiet_harness():
            model = carved_now(module)
            parameters = model.num_parameters()

            def open_model() -> Any:
                device = module.device
                return SharedModel(
                    model.to(device),
                    beside(module.source),
                    batch_size=first_batch_size(device),
                    processes=processes,
                )

            subject = Subject(
                name=f"{trainer.default_root_dir}, step {trainer.global_step}",
                fingerprint=processes.from_first(_fingerprint(model)),
                dtype="float32",
                open=open_model,
            )
            outcomes = measure_suite(
                resolve(self.suite),
                subject,
                KeptResults(folder / "kept"),
                questions=self.settings.questions,
                processes=processes,
            )
        scores = scores_of(
            self.suite, subject, parameters, outcomes, questions=self.settings.questions, published=None
        )
        if processes.first:
            scores.write(folder, step=trainer.global_step)
            for name, problem in scores.missing.items():
                _log.warning("WARNING: %s of %s was not asked: %s", name, self.suite.name, problem)
        return scores.scalars()


def carved_now(module: ShearingModule) -> Any:
    """The model that a cut at this step would give, on the CPU, in evaluation; every process must ask."""
    assert module.model is not None
    for part in module.model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    tensors = _whole_tensors(module.model)
    if module.lora is not None:
        tensors = merged(tensors, module.lora)
    config = module.source_config
    if module.pruning is None:
        return build_model(config, tensors, dtype=torch.float32).eval()
    log_alpha = {axis: rows.detach().cpu() for axis, rows in whole_gates(module).items()}
    values = module.constraint().standing(log_alpha, module.pruning.shape)
    kept = kept_units(values, module.family.shape)
    small = carved_config(config, kept.shape, kept_layers=kept.layers.tolist())
    return build_model(small, carve(tensors, module.family, values), dtype=torch.float32).eval()


def _whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(parameter).detach().cpu().clone() for name, parameter in model.named_parameters()}


def _fingerprint(model: nn.Module) -> str:
    """A hash of the beginning and the sum of every tensor."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().float().flatten()
        digest.update(f"{name} {tuple(parameter.shape)} {float(tensor.double().sum())!r}".encode())
        digest.update(tensor[:_SAMPLE].numpy().tobytes())
    return digest.hexdigest()
