"""``trainer.max_time``: how long one start of a run may take."""

import logging
import re
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from shear_lit.training.errors import RunError

_log = logging.getLogger(__name__)


def duration_of(max_time: Any) -> timedelta:
    """The time that ``trainer.max_time`` names.

    Raises:
        RunError: it is no duration, or none that trains anything.
    """
    found = None
    if isinstance(max_time, timedelta):
        found = max_time
    elif isinstance(max_time, dict):
        found = timedelta(**max_time)
    elif parts := re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", str(max_time).strip()):
        days, hours, minutes, seconds = map(int, parts.groups())
        found = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if found is None or found <= timedelta():
        raise RunError(
            f"{max_time} is no time that a run can take. Use DD:HH:MM:SS, for example 00:23:30:00.",
            key="trainer.max_time",
        )
    return found


class TimeLimit(Callback):
    """Ends a start of a run after the first optimizer step that is complete when its time is over.

    Lightning's own timer stops between two micro-batches, which would leave a step half done, and adds up all starts
    of a run, so that a job that is put in the queue again would end before its first step.
    """

    def __init__(self, duration: timedelta) -> None:
        self._duration = duration
        self._end = time.monotonic() + duration.total_seconds()
        self._over = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the first process, whose clock counts, when a step is complete."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not self._over:
            self._over = bool(trainer.strategy.broadcast(time.monotonic() >= self._end))
            trainer.should_stop = trainer.should_stop or self._over

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the run is not at its end."""
        if self._over and trainer.global_step < trainer.max_steps and trainer.is_global_zero:
            _log.info(
                "trainer.max_time=%s is over after step %d of %d: what there is is saved; go on with --ckpt_path auto",
                self._duration,
                trainer.global_step,
                trainer.max_steps,
            )
