"""Dynamic batch loading, the training side: validate at every boundary, and move the mixture by the losses.

Each change is written to ``<run>/mixture.json``, which a later run can begin from.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from shear_lit.data.datamodule import DomainData
from shear_lit.data.loader import accumulation_of
from shear_lit.data.mixture_log import (
    MIXTURE_LOG,
    MixtureChange,
    MixtureLog,
    read_mixture_log,
    write_mixture_log,
)
from shear_lit.disk.writing import free_path
from shear_lit.training.module import ShearingModule

_log = logging.getLogger(__name__)


class MixtureUpdate(Callback):
    """Give Lightning the data's batch and validation interval, and the data the losses of each validation."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Derive accumulation and interval from the data's settings, so that they cannot disagree."""
        data = domain_data(trainer)
        if stage == "fit":
            accumulation = accumulation_of(data.global_batch, data.micro_batch, trainer.world_size)
            trainer.accumulate_grad_batches = accumulation
            # Lightning counts micro-batches here.
            trainer.val_check_interval = data.mixture.update_every_steps * accumulation
            trainer.check_val_every_n_epoch = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate before the first step where one is due.

        It is at step 0 if the user asks for it, and after a resume from a checkpoint of a boundary: those
        are written before the validation of their step, whose update would otherwise be lost.
        """
        count_batches(trainer)
        _begin_log(trainer)
        if domain_data(trainer).update_due:
            _validate(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the mixture, if training goes on at a boundary."""
        assert isinstance(pl_module, ShearingModule)
        data = domain_data(trainer)
        if trainer.state.fn == "fit" and data.update_due and pl_module.domain_losses is not None:
            data.update_mixture(pl_module.domain_losses)
            losses = dict(zip(data.domains, pl_module.domain_losses.tolist(), strict=True))
            _log_change(trainer, losses)


def domain_data(trainer: L.Trainer) -> DomainData:
    """The data of the run."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, DomainData):
        raise TypeError(f"a ShearingModule trains on DomainData, not on {type(data).__name__}")
    return data


def count_batches(trainer: L.Trainer) -> None:
    """Let Lightning's count of micro-batches be that of these processes, which a resume may have changed.

    A checkpoint holds the count of the processes that wrote it; steps and validations would fall between batches.
    """
    progress = cast(Any, trainer.fit_loop.epoch_loop.batch_progress)
    missing = domain_data(trainer).micro_batches_done - progress.total.ready
    for count in (progress.total, progress.current):  # what is counted as begun or done stays so far apart
        for stage in ("ready", "started", "processed", "completed"):
            setattr(count, stage, getattr(count, stage) + missing)


def _begin_log(trainer: L.Trainer) -> None:
    """Write what the run begins with, or go back to what the checkpoint knew of an earlier log.

    An earlier log that went further keeps lying beside it, numbered.
    """
    path, data = Path(trainer.default_root_dir) / MIXTURE_LOG, domain_data(trainer)
    if not trainer.is_global_zero:
        return
    if not path.exists():
        _log_change(trainer, None)
        return
    written = read_mixture_log(path, "trainer.default_root_dir")
    known = written.up_to(max(written.updates[0].step, data.updated_at_step))
    if known == written:
        return
    kept = free_path(path)
    write_mixture_log(kept, written)
    write_mixture_log(path, known)
    _log.info("%s goes back to step %d; what followed is kept in %s", path, data.updated_at_step, kept)


def _log_change(trainer: L.Trainer, losses: Mapping[str, float] | None) -> None:
    """Write the present mixture, and what it followed."""
    if not trainer.is_global_zero:
        return
    path, data = Path(trainer.default_root_dir) / MIXTURE_LOG, domain_data(trainer)
    if path.exists():
        log = read_mixture_log(path, "trainer.default_root_dir")
    else:
        log = MixtureLog(
            domains=data.domains,
            global_batch=data.global_batch,
            sequence_length=data.manifest.sequence_length,
        )
    change = MixtureChange(
        step=trainer.global_step, weights=data.weights, losses=None if losses is None else dict(losses)
    )
    write_mixture_log(path, log.followed_by(change))


def _validate(trainer: L.Trainer) -> None:
    """Run the validation loop before the first training batch, as the training loop does between two."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    # After a resume the loop believes that it was interrupted, and would skip batches.
    loop.restarting = False
    loop.batch_progress.reset_on_run()
    trainer.validating = True
    first_iteration = trainer._logger_connector._first_loop_iter
    loop.run()
    trainer.training = True
    trainer._logger_connector._first_loop_iter = first_iteration
