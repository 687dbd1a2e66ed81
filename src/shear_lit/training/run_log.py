"""What a run reports: losses, sizes, multipliers, mixture, rates and speed, to every logger.

Steps leave their numbers on the device. They are read, averaged over ranks and written together every
``trainer.log_every_n_steps`` optimizer steps, so that a step waits for nothing.
"""

import csv
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from shear_lit.data.store import DomainBatch
from shear_lit.evaluation.domain_loss import reported
from shear_lit.mistakes import Mistake
from shear_lit.training.console import show
from shear_lit.training.mixture_update import domain_data
from shear_lit.training.module import ShearingModule, StepOutput


class LossError(Mistake):
    """A loss that is not finite: nothing that follows from it is worth computing."""

    exit_code = 1


class RunLog(Callback):
    """Report the run, and stop it when a loss is not finite."""

    def __init__(self) -> None:
        self._numbers: list[torch.Tensor] = []
        self._batches: list[tuple[int, torch.Tensor]] = []
        self._since: float | None = None
        self.last_checkpoint: str | None = None
        """The last checkpoint that was written or resumed from: no loss before it was other than finite."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()
        if trainer.ckpt_path is not None:
            self.last_checkpoint = str(trainer.ckpt_path)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the numbers of one micro-batch, and report when enough steps are complete."""
        step, micro = cast(StepOutput, outputs), cast(DomainBatch, batch)
        numbers = [step["language_loss"].reshape(1)]
        if "expected_sizes" in step:
            penalty = step.get("size_penalty", torch.zeros_like(numbers[0]))
            numbers += [penalty.reshape(1), step["expected_sizes"]]
        if "multipliers" in step:
            numbers.append(step["multipliers"].flatten())
        self._numbers.append(torch.cat([number.float() for number in numbers]))
        complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._batches.append((trainer.global_step - (1 if complete else 0), micro["domain"]))
        due = (
            trainer.global_step % cast(Any, trainer).log_every_n_steps == 0
            or trainer.global_step >= trainer.max_steps
        )
        if complete and due:
            self.flush(trainer, cast(ShearingModule, pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report what there is, so that the time of the validation does not count as training's."""
        if trainer.state.fn == "fit":
            self.flush(trainer, cast(ShearingModule, pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the losses, the mixture that follows from them, and the tokens drawn so far, per domain."""
        module, data = cast(ShearingModule, pl_module), domain_data(trainer)
        numbers = reported(data.domains, cast(torch.Tensor, module.domain_losses).tolist())
        if trainer.state.fn == "fit":
            numbers |= {f"mixture/weight/{name}": weight for name, weight in data.weights.items()}
            numbers |= {f"mixture/tokens/{name}": float(tokens) for name, tokens in data.tokens_seen.items()}
            numbers |= {f"mixture/epochs/{name}": epochs for name, epochs in data.epochs.items()}
        _report(trainer, numbers)
        self._since = time.monotonic()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make sure that no checkpoint follows a loss that is not finite, or holds a weight that is not."""
        self.flush(trainer, cast(ShearingModule, pl_module))
        bad = sum((~local_part(weight).isfinite()).sum() for weight in pl_module.parameters())
        if float(cast(torch.Tensor, trainer.strategy.reduce(bad, reduce_op="sum"))) > 0:
            raise LossError(
                f"a weight, gate or multiplier is not finite after optimizer step {trainer.global_step - 1}, though "
                f"its losses were. {self._remedy()}"
            )

    def flush(self, trainer: L.Trainer, module: ShearingModule) -> None:
        """Average what was kept over ranks and micro-batches, check it, and report it.

        Raises:
            LossError: a loss was not finite.
        """
        if not self._numbers:
            return
        local = torch.stack(self._numbers)
        batches, self._numbers, self._batches = self._batches, [], []
        numbers = cast(torch.Tensor, trainer.strategy.reduce(local.clone(), reduce_op="mean"))
        now = time.monotonic()
        rows = numbers.tolist()
        if not bool(torch.isfinite(numbers[:, :2]).all()):
            self._refuse(trainer, local, numbers, batches)
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        report = {"loss/language": mean[0]}
        if module.axes:
            report |= _size_report(module, mean[1], rows[-1][2:])
        data = domain_data(trainer)
        tokens = len(rows) * data.micro_batch * data.manifest.sequence_length * trainer.world_size
        if self._since is not None and now > self._since:
            report["speed/tokens_per_second"] = tokens / (now - self._since)
        self._since = now
        for group in trainer.optimizers[0].param_groups:
            report[f"learning_rate/{group['name']}"] = float(group["lr"])
        _report(trainer, report)
        show(trainer, report)

    def _refuse(
        self,
        trainer: L.Trainer,
        local: torch.Tensor,
        reduced: torch.Tensor,
        batches: list[tuple[int, torch.Tensor]],
    ) -> None:
        """Name the first micro-batch whose loss is not finite; every rank raises, so none waits for another."""
        bad = int((~torch.isfinite(reduced[:, :2]).all(1)).nonzero()[0])
        step, domains = batches[bad]
        if torch.isfinite(local[bad, :2]).all():
            where = "of another rank, whose message names its domains"
        else:
            names = domain_data(trainer).domains
            where = "with the domains " + ", ".join(sorted({names[index] for index in domains.tolist()}))
        raise LossError(
            f"the loss of optimizer step {step} is not finite, in a micro-batch {where}. {self._remedy()}"
        )

    def _remedy(self) -> str:
        return (
            f"The run stops here; the last good checkpoint is {self.last_checkpoint or 'none (none was written yet)'}. "
            f"Resume from it with --ckpt_path and a lower model.optimizer.weights_learning_rate, "
            f"or look at the data of those domains."
        )


class MetricsFile(Logger):
    """Appends every number to one CSV file (step, name, value), which a resumed run goes on with."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def version(self) -> str:
        """There is one file per run."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file."""
        return self._path

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append ``metrics``."""
        fresh = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, repr(value)) for name, value in metrics.items())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config lies beside the file."""


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that may be sharded."""
    detached = tensor.detach()
    return cast(torch.Tensor, cast(Any, detached).to_local()) if hasattr(detached, "to_local") else detached


def _size_report(module: ShearingModule, penalty: float, numbers: list[float]) -> dict[str, float]:
    """The sizes and, where there are multipliers, those and what they add to the loss."""
    count = len(module.axes)
    scheduled, report = module.scheduled_sparsity(), {}
    for index, axis in enumerate(module.axes):
        report[f"size/{axis.value}/expected"] = numbers[index]
        report[f"size/{axis.value}/target"] = module.family.shape.units(axis) * (1 - scheduled[axis])
    if module.multipliers is not None:
        report["loss/size_penalty"] = penalty
        first, second = numbers[count : 2 * count], numbers[2 * count :]
        for index, axis in enumerate(module.axes):
            report[f"multipliers/{axis.value}/first"] = first[index]
            report[f"multipliers/{axis.value}/second"] = second[index]
    return report


def _report(trainer: L.Trainer, numbers: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
