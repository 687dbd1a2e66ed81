"""What a run reports: losses, sizes, multipliers, mixture, rates and speed, to every logger.

Steps leave their numbers on the device. They are read, averaged over ranks and written together every
``trainer.log_every_n_steps`` optimizer steps, so that a step waits for nothing.
"""

import logging
import math
import resource
import time
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch

from shear_lit.data.serving.batch import DomainBatch
from shear_lit.evaluation.domain_loss import reported
from shear_lit.evaluation.tables import Table, drawn
from shear_lit.mistakes import Mistake
from shear_lit.reporting.run_lines import validation_rows, validation_table, validation_title
from shear_lit.training.console import is_watched, say, show
from shear_lit.training.module import ShearingModule, StepOutput
from shear_lit.training.run_checkpoints import complete_checkpoints, step_of

_log = logging.getLogger(__name__)
_LOSSES = 5
"""Of each micro-batch, before sizes and multipliers: cross-entropy, divergence, size penalty, the gates' objective,
distance of streams."""


class LossError(Mistake):
    """A loss that is not finite: nothing that follows from it is worth computing."""

    exit_code = 1


class RunLog:
    """The numbers of a run's steps and validations, on their way to the loggers."""

    def __init__(self, trainer: L.Trainer, module: ShearingModule, *, device_seconds: float = 0.0) -> None:
        """Begin, or go on with a run that has taken ``device_seconds`` before."""
        self._trainer, self._module, self._data = trainer, module, module.data
        self._micro_batches: list[torch.Tensor] = []
        self._domains: list[tuple[int, torch.Tensor]] = []
        self._norms: list[tuple[int, torch.Tensor]] = []
        self._rows: list[list[float]] = []
        self._read_norms: list[float] = []
        self._earlier_device_seconds, self._began = device_seconds, time.monotonic()
        self._first_step, self._losses = trainer.global_step, dict[str, float]()
        self._since = self._idle_since = self._steps_began = self._began
        self._seconds = self._waited = 0.0
        self._stands_still = True  # a validation or a repair before the first step is no training time

    @property
    def device_seconds(self) -> float:
        """Seconds that the run has kept its devices, all together, also before it was resumed."""
        return self._earlier_device_seconds + (time.monotonic() - self._began) * self._trainer.world_size

    @property
    def due(self) -> bool:
        """Whether the steps since the last report are enough for one."""
        trainer = self._trainer
        every = cast(Any, trainer).log_every_n_steps
        enough = trainer.global_step % every == 0 or trainer.global_step >= trainer.max_steps
        return enough and bool(self._micro_batches or self._rows)

    def batch_is_here(self) -> None:
        """Note that the wait for a micro-batch is over."""
        self._waited += time.monotonic() - self._idle_since

    def keep(self, step: StepOutput, batch: DomainBatch, *, completes: bool) -> None:
        """Keep the numbers of one micro-batch, which may complete an optimizer step."""
        none = torch.zeros_like(step["language_loss"])
        divergence, penalty = step.get("divergence", none), step.get("size_penalty", none)
        apart, streams = step.get("gates_objective", none), step.get("layers_distance", none)
        losses = (step["language_loss"], divergence, penalty, apart, streams)
        numbers = [loss.reshape(1) for loss in losses]
        if "expected_sizes" in step:
            numbers.append(step["expected_sizes"])
        if "multipliers" in step:
            numbers.append(step["multipliers"].flatten())
        self._micro_batches.append(torch.cat([number.float() for number in numbers]))
        self._domains.append((self._trainer.global_step - completes, batch["domain"]))
        if completes and self._module.gradient_norm is not None:
            self._norms.append((self._trainer.global_step - 1, self._module.gradient_norm))
        self._idle_since = time.monotonic()

    def check(self) -> None:
        """Read what was kept, averaged over ranks; the clock of the training stands still until ``go_on``.

        Raises:
            LossError: a loss or the norm of a gradient was not finite.
        """
        if not self._micro_batches:
            return
        local = torch.stack(self._micro_batches)
        numbers = cast(torch.Tensor, self._trainer.strategy.reduce(local.clone(), reduce_op="mean"))
        rows = numbers.tolist()
        steps, own_norms = [step for step, _ in self._norms], [norm for _, norm in self._norms]
        norms = dict(zip(steps, torch.stack(own_norms).tolist(), strict=True)) if steps else {}
        self._seconds += time.monotonic() - self._since
        self._stands_still = True
        skipped = norms.keys() & set(self._module.skipped_steps)
        for index, (step, _) in enumerate(self._domains):
            if not all(math.isfinite(number) for number in rows[index][:_LOSSES]):
                self._say_not_finite(step, self._where(index, local), skips=step in skipped)
        for step, norm in norms.items():
            if step not in skipped and not math.isfinite(norm):
                self._say_not_finite(step, None, skips=False)
        self._rows += [row for row, (step, _) in zip(rows, self._domains, strict=True) if step not in skipped]
        self._read_norms += [norm for step, norm in norms.items() if step not in skipped]
        self._micro_batches, self._domains, self._norms = [], [], []

    def check_weights(self) -> None:
        """Make sure that no checkpoint follows a loss that is not finite, or holds a weight that is not.

        Raises:
            LossError: one of them is not finite.
        """
        self.check()
        trainer = self._trainer
        bad = sum((~local_part(weight).isfinite()).sum() for weight in self._module.parameters())
        if float(cast(torch.Tensor, trainer.strategy.reduce(bad, reduce_op="sum"))) > 0:
            step = trainer.global_step - 1
            raise LossError(
                f"a weight, gate or multiplier is not finite after optimizer step {step}, though its losses were. "
                f"{self._remedy(step)}"
            )

    def report(self, *, validated: bool) -> None:
        """Write what was read since the last report and, after a validation, what that found."""
        steps = self._of_steps() if self._rows else {}
        self._write(steps | (self._of_validation() if validated else {}))
        if validated:
            self._say_validation()
        if steps:
            show(self._trainer, steps, seconds_left=self._seconds_left())

    def _say_validation(self) -> None:
        """Say the losses of the validation, and the mixture that follows; the next time, what changed as well."""
        data, losses = self._data, self._module.named_losses
        given = [] if data.references is None else data.references.tolist()
        references = dict(zip(data.domains, given, strict=True)) if given else {}
        step = self._trainer.global_step
        if is_watched(self._trainer):
            heads, rows = validation_rows(losses, references, data.weights, self._losses)
            table = drawn([Table(title=validation_title(step), header=heads, rows=rows)])
            say(self._trainer, "\n".join(line for line in table.splitlines() if line.strip()))
        else:
            say(self._trainer, validation_table(step, losses, references, data.weights, self._losses))
        self._losses = dict(losses)

    def _seconds_left(self) -> float | None:
        """The time of the steps to come if they, and validations between, take as long as before; None at the end."""
        taken, left = (
            self._trainer.global_step - self._first_step,
            self._trainer.max_steps - self._trainer.global_step,
        )
        return (time.monotonic() - self._steps_began) / taken * left if taken > 0 and left > 0 else None

    def report_mixture(self) -> None:
        """Write the mixture that the run begins with."""
        self._write(self._of_mixture())

    def go_on(self) -> None:
        """Let the clock of the training run again, and count the wait for the next micro-batch from here."""
        self._idle_since = time.monotonic()
        if self._trainer.global_step == self._first_step:
            self._steps_began = self._idle_since
        if self._stands_still:
            self._since, self._stands_still = self._idle_since, False

    def _of_steps(self) -> dict[str, float]:
        """The numbers of the steps since the last report."""
        trainer, data, rows = self._trainer, self._data, self._rows
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        found = {"loss/language": mean[0]}
        if self._module.distillation is not None:
            found["loss/divergence"] = mean[1]
            if self._module.distillation.layers_weight:
                found["loss/layers"] = mean[4]
        if self._module.pruning is not None and self._module.pruning.objective != "same":
            found["loss/gates"] = mean[3]
        if self._module.axes:
            found |= _of_sizes(self._module, mean[2], rows[-1][_LOSSES:])
        if self._read_norms:
            found["gradient/norm"] = sum(self._read_norms) / len(self._read_norms)
        if self._module.skip_nonfinite:
            found["run/skipped_steps"] = float(len(self._module.skipped_steps))
        tokens = len(rows) * data.micro_batch * data.manifest.sequence_length * trainer.world_size
        found["speed/tokens_per_second"] = tokens / max(self._seconds, 1e-9)
        found["speed/seconds_waiting_for_data"] = self._waited
        found["memory/peak_gib"] = _peak_memory(trainer.strategy.root_device)
        found["run/tokens"] = float(sum(data.tokens_seen.values()))
        found["run/device_seconds"] = self.device_seconds
        for group in trainer.optimizers[0].param_groups:
            found[f"learning_rate/{group['name']}"] = float(group["lr"])
        self._rows, self._read_norms, self._seconds, self._waited = [], [], 0.0, 0.0
        return found

    def _of_validation(self) -> dict[str, float]:
        """The losses, how far they are behind their references, and the mixture that follows from them."""
        losses = cast(torch.Tensor, self._module.domain_losses).tolist()
        found = reported(self._data.domains, losses)
        if self._data.references is not None:
            lags = zip(self._data.domains, losses, self._data.references.tolist(), strict=True)
            found |= {f"loss/lag/{name}": loss - reference for name, loss, reference in lags}
        return found | self._of_mixture()

    def _of_mixture(self) -> dict[str, float]:
        """The mixture, and what was drawn of each domain so far."""
        data = self._data
        return {
            **{f"mixture/weight/{name}": weight for name, weight in data.weights.items()},
            **{f"mixture/tokens/{name}": float(tokens) for name, tokens in data.tokens_seen.items()},
            **{f"mixture/epochs/{name}": epochs for name, epochs in data.epochs.items()},
        }

    def _write(self, numbers: dict[str, float]) -> None:
        for logger in self._trainer.loggers:
            logger.log_metrics(numbers, step=self._trainer.global_step)

    def _where(self, index: int, local: torch.Tensor) -> str:
        """The domains of a micro-batch, which only the rank knows that had it."""
        if torch.isfinite(local[index, :_LOSSES]).all():
            return "of another rank, whose message names its domains"
        names = self._data.domains
        return "with the domains " + ", ".join(
            sorted({names[domain] for domain in self._domains[index][1].tolist()})
        )

    def _say_not_finite(self, step: int, where: str | None, *, skips: bool) -> None:
        """Say which step it was, and end the run on every rank, so that none waits for another; or let it pass."""
        if where is None:
            what = f"the gradient of optimizer step {step} is not finite, though its losses are"
        else:
            what = f"the loss of optimizer step {step} is not finite, in a micro-batch {where}"
        if not skips:
            raise LossError(f"{what}. {self._remedy(step)}")
        count = len(self._module.skipped_steps)
        _log.warning("WARNING: %s: it passes without an update (%d of training.skip_nonfinite)", what, count)

    def _remedy(self, step: int) -> str:
        """The way out; a checkpoint of the bad step itself may hold the very weights that gave the number."""
        resumed = [] if self._trainer.ckpt_path is None else [Path(self._trainer.ckpt_path)]
        written = complete_checkpoints(self._trainer.default_root_dir)
        good = max((path for path in [*resumed, *written] if step_of(path) < step), key=step_of, default=None)
        return (
            f"The run stops here; the last checkpoint from before is {good or 'none (none was written yet)'}. "
            f"Resume from it with --ckpt_path and a lower model.optimizer.weights_learning_rate, let single steps "
            f"pass without an update with training.skip_nonfinite, or look at the data of those domains."
        )


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that may be sharded."""
    detached = tensor.detach()
    return cast(torch.Tensor, cast(Any, detached).to_local()) if hasattr(detached, "to_local") else detached


def _of_sizes(module: ShearingModule, penalty: float, numbers: list[float]) -> dict[str, float]:
    """The sizes and, where there are multipliers, those and what they add to the loss."""
    count = len(module.axes)
    scheduled, found = module.scheduled_sparsity(), {}
    for index, axis in enumerate(module.axes):
        found[f"size/{axis.value}/expected"] = numbers[index]
        found[f"size/{axis.value}/target"] = module.family.shape.units(axis) * (1 - scheduled[axis])
    if module.multipliers is not None:
        found["loss/size_penalty"] = penalty
        first, second = numbers[count : 2 * count], numbers[2 * count :]
        for index, axis in enumerate(module.axes):
            found[f"multipliers/{axis.value}/first"] = first[index]
            found[f"multipliers/{axis.value}/second"] = second[index]
    return found


def _peak_memory(device: torch.device) -> float:
    """The most memory that this process has held, in GiB: of the accelerator, or its own where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
