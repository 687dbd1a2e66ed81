"""The boundary between two optimizer steps: one owner of what may happen there, and its order."""

import logging
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.distributed.constants import default_pg_timeout

from shear_lit.data.serving.loader import accumulation_of
from shear_lit.evaluation.domain_loss import reported
from shear_lit.pruning.expectation import expected_units
from shear_lit.ranges import Count, KeptCount
from shear_lit.reporting.run_lines import beginning, going_on
from shear_lit.training.agreement import Agreement
from shear_lit.training.console import say
from shear_lit.training.errors import RunError
from shear_lit.training.expecting import least_seconds
from shear_lit.training.lightning_loops import is_child, set_micro_batches_done, validate
from shear_lit.training.metrics_file import MetricsFile
from shear_lit.training.module import ShearingModule
from shear_lit.training.peers import Peers
from shear_lit.training.pictures import Pictures
from shear_lit.training.run_checkpoints import free_checkpoint, remove_all_but, remove_half_written
from shear_lit.training.run_directory import (
    add_to_mixture_log,
    begin_mixture_log,
    whole_gates,
    write_gates,
    write_provenance,
)
from shear_lit.training.run_log import RunLog
from shear_lit.training.run_start import check_all_see
from shear_lit.training.signals import SIGNALS
from shear_lit.training.starting import order_gates, repair_stage, stage_to_repair
from shear_lit.training.strategies import FSDP2Strategy, WholeFileIO
from shear_lit.training.suite_step import SuiteStep

_PRODUCTS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What matrices are multiplied in, by precision."""
_log = logging.getLogger(__name__)


class _Told(Exception):
    """A validation was left because the run is to stop; a resume begins it anew."""


class Boundary(Checkpoint):
    """Orders gates, validates, moves the mixture, writes, reports, saves and stops; everything else only listens.

    It is of Lightning's kind of callback whose hooks come last: others have seen a step before it ends here.
    """

    trainer: L.Trainer
    module: ShearingModule
    log: RunLog
    pictures: Pictures

    def __init__(self, every_steps: Count = 50, keep: KeptCount = 2) -> None:
        """Say how often a run is saved.

        Args:
            every_steps: Optimizer steps between two checkpoints.
            keep: Checkpoints that are kept, the newest ones; -1 keeps all.
        """
        super().__init__()
        if every_steps < 1 or keep == 0 or keep < -1:
            raise RunError(
                f"checkpoint.every_steps={every_steps} and checkpoint.keep={keep}: a run is saved every 1 or more "
                f"steps, and keeps 1 or more checkpoints, or all with -1. Correct them."
            )
        self.every_steps, self.keep = int(every_steps), int(keep)
        self.told = 0
        """The signal by which all ranks agreed to stop; 0 if none came."""
        self.peers = Peers(0, 1, timeout=default_pg_timeout)
        self._saved_step = 0
        self._device_seconds, self._skipped_steps = 0.0, list[int]()
        self._should_stop = False
        self.suite_step: SuiteStep | None = None
        """What asks downstream tasks; none where nobody wants them."""

    def between_steps(self) -> None:
        """Everything that may happen between two optimizer steps, in this order and no other."""
        self.peers.rest()
        self.told = self._agreement.of(SIGNALS.received)
        self._order_gates()
        self._repair_stage()
        validates = self.module.data.update_due
        if validates or self.log.due or self._saves:
            self.log.check()
        validated = validates and self._validate()
        if validated:
            self._write_gates_and_mixture(self._move_mixture())
        self._ask_suite()
        if validated or self.log.due:
            self.log.report(validated=validated)
        if self._saves:
            self._save()
        self._stop_if_told()
        self.log.go_on()
        self.peers.at(self._step)

    # What is due

    @property
    def _step(self) -> int:
        return self.trainer.global_step

    @property
    def _ends(self) -> bool:
        return bool(self.told or self.trainer.should_stop or self._step >= self.trainer.max_steps)

    @property
    def _saves(self) -> bool:
        due = self._ends or self._step % self.every_steps == 0
        return due and self._step > self._saved_step

    # What is done

    def _order_gates(self) -> None:
        pruning = self.module.pruning
        if pruning is not None and pruning.ranked and self._step == 0 and not self.told:
            order_gates(self.module, pruning)

    def _repair_stage(self) -> None:
        """Repair the cut of a stage of the fall that has just begun; a run that is to stop does so when it goes on."""
        if not self.told and (stage := stage_to_repair(self.module)):
            self.log.check()  # a repair is no training time, and of a loss that is not finite there is none
            repair_stage(self.module, stage)

    def _validate(self) -> bool:
        """Validate, and say whether it came to its end."""
        try:
            validate(self.trainer)
        except _Told:
            return False
        finally:
            self.peers.rest()
        return True

    def _ask_suite(self) -> None:
        """Ask downstream tasks of the model as it would be cut now, where it is time for them."""
        if self.suite_step is not None and not self.told and self.suite_step.is_due(self.trainer):
            self.peers.rest()
            figures = self.suite_step.ask(self.trainer, self.module)
            for logger in self.trainer.loggers:
                logger.log_metrics(figures, step=self._step)

    def _move_mixture(self) -> dict[str, float]:
        """Move it, and give the losses that it followed."""
        module = self.module
        losses = module.domain_losses
        if module.training_losses is not None:
            losses = module.training_losses.taken(module.sum_over_ranks)
        assert losses is not None
        module.data.update_mixture(losses, self.trainer.strategy.broadcast)
        return dict(zip(module.data.domains, losses.tolist(), strict=True))

    def _write_gates_and_mixture(self, followed: dict[str, float]) -> None:
        log_alpha = None if self.module.gates is None else whole_gates(self.module)
        if self.trainer.is_global_zero:
            if log_alpha is not None:
                write_gates(self.trainer, self.module, log_alpha)
            add_to_mixture_log(self.trainer, self.module.data, followed, self.module.named_errors)
            self.pictures.show(log_alpha)

    def _save(self) -> None:
        trainer = self.trainer
        sharded = isinstance(trainer.strategy, FSDP2Strategy) and trainer.strategy.saves_shards
        path = free_checkpoint(trainer.default_root_dir, self._step, sharded=sharded)
        trainer.save_checkpoint(trainer.strategy.broadcast(path), weights_only=False)
        self._saved_step = self._step
        if trainer.is_global_zero and self.keep > 0:
            remove_all_but(self.keep, trainer.default_root_dir)

    def _stop_if_told(self) -> None:
        if self.told or self._should_stop:
            self.trainer.should_stop = True

    # When Lightning calls

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let files appear whole or not at all, and derive the accumulation from the data's settings."""
        trainer.strategy.checkpoint_io = WholeFileIO()
        if stage == "fit":
            timeout = getattr(trainer.strategy, "_timeout", default_pg_timeout)
            self.peers = Peers(trainer.global_rank, trainer.world_size, timeout=timeout)
            check_all_see(trainer)
            data = cast(ShearingModule, pl_module).data
            trainer.accumulate_grad_batches = accumulation_of(
                data.global_batch, data.micro_batch, trainer.world_size
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the files of the run, or go on with them; then do what is due before the first step.

        That is a validation, if the user asks for one, or if the checkpoint was taken before that of its step.
        """
        self.trainer, self.module = trainer, cast(ShearingModule, pl_module)
        self.log = RunLog(trainer, self.module, device_seconds=self._device_seconds)
        self.pictures, self._agreement = Pictures(trainer, self.module), Agreement(trainer.world_size)
        self._saved_step, self.module.skipped_steps = self._step, self._skipped_steps
        set_micro_batches_done(trainer, self.module.data.micro_batches_done)
        if trainer.is_global_zero:
            remove_half_written(trainer.default_root_dir)
            for logger in trainer.loggers:
                if isinstance(logger, MetricsFile):
                    logger.go_back_to(self._step)
            begin_mixture_log(trainer, self.module.data)
            write_provenance(trainer, self.module)
            self.pictures.begin()
        self._say_what_begins()
        self.between_steps()
        if self._step == 0 and self.module.data.updated_at_step < 0:
            self.log.report_mixture()  # which a validation before the first step reports otherwise

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time that went by until the data were there."""
        self.log.batch_is_here()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the numbers of a micro-batch; between two steps, do what is due."""
        completes = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self.log.keep(outputs, batch, completes=completes)
        self.peers.at(self._step)
        # A callback may end the run at any micro-batch (Timer), and half a step cannot be saved.
        self._should_stop, trainer.should_stop = self._should_stop or trainer.should_stop, False
        if completes:
            trainer.should_stop = self._should_stop
            self.between_steps()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave the validation of a run that is to stop, but for the last, which no other start would make up for."""
        if trainer.state.fn == "fit":
            self.peers.at(self._step)
            self.told = self._agreement.of(SIGNALS.received)
            if self.told and self._step < trainer.max_steps:
                raise _Told

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the final losses, and warn of every axis that is too far from its target for an export in silence."""
        module = cast(ShearingModule, pl_module)
        if trainer.is_global_zero and not self.told and module.domain_losses is not None:
            self.pictures.end(reported(module.data.domains, module.domain_losses.tolist()))
        if module.gates is None or module.pruning is None or self.told:
            return
        for axis in expected_units(whole_gates(module), module.pruning.shape, module.constraint()):
            if axis.off_target and trainer.is_global_zero:
                _log.warning("WARNING: %s", axis)

    def _say_what_begins(self) -> None:
        data, pruning, trainer = self.module.data, self.module.pruning, self.trainer
        if self._step:
            if trainer.is_global_zero:
                left = (
                    self._device_seconds / trainer.world_size / self._step * (trainer.max_steps - self._step)
                )
                say(trainer, going_on(self._step, trainer.max_steps, left))
            return
        step_tokens = data.global_batch * data.manifest.sequence_length
        said = beginning(
            self.module.source,
            None if pruning is None else self.module.family.shape,
            None if pruning is None else pruning.shape,
            steps=self.trainer.max_steps,
            step_tokens=step_tokens,
            domains=len(data.domains),
            seconds=self._least_seconds(step_tokens * trainer.max_steps) if trainer.is_global_zero else 0.0,
            processes=trainer.world_size,
        )
        say(self.trainer, said)

    def _least_seconds(self, tokens: int) -> float:
        """What the run takes at least, as far as its matrix products say."""
        data, model = self.module.data, cast(Any, self.module.model)
        return least_seconds(
            model,
            model.get_input_embeddings().weight,
            tokens=tokens,
            rows=data.micro_batch * data.manifest.sequence_length,
            processes=self.trainer.world_size,
            dtype=_PRODUCTS.get(str(self.trainer.precision), torch.float32),
        )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Let the other processes know, which would wait for this one."""
        said = " ".join(f"{exception}".split()) or type(exception).__name__
        self.peers.fail(said, child=is_child(trainer))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the other processes end as they like."""
        self.peers.leave()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make sure that nobody saves a weight that is not finite."""
        self.log.check_weights()

    def state_dict(self) -> dict[str, Any]:
        """What the run has cost so far, and the steps that passed without an update."""
        return {"device_seconds": self.log.device_seconds, "skipped_steps": list(self.module.skipped_steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; a checkpoint of an earlier version knows nothing of it."""
        self._device_seconds = float(state_dict.get("device_seconds", 0.0))
        self._skipped_steps = [int(step) for step in state_dict.get("skipped_steps", [])]
