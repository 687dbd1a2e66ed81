"""Where this package reaches into Lightning's loops: by names that Lightning does not promise, and so in one place."""

from typing import Any, cast

import lightning as L
from lightning.fabric.plugins.environments import LightningEnvironment

NEVER = 2**31
"""An interval of epochs that no run reaches: Lightning's own validation is off, and ``boundary`` runs it."""


def validate(trainer: L.Trainer) -> None:
    """Run the validation loop of a fit, as the training loop does between two batches."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    # After a resume the loop believes that it was interrupted, and would skip batches.
    loop.restarting = False
    loop.batch_progress.reset_on_run()
    trainer.lightning_module.zero_grad()  # gradients are of no use any more, and take memory
    first_iteration = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    try:
        loop.run()
    finally:
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first_iteration


def set_micro_batches_done(trainer: L.Trainer, done: int) -> None:
    """Let Lightning's count of micro-batches be that of these processes, which a resume may have changed.

    A checkpoint holds the count of the processes that wrote it; steps would fall between batches.
    """
    progress = cast(Any, trainer.fit_loop.epoch_loop.batch_progress)
    missing = done - progress.total.ready
    for count in (progress.total, progress.current):  # what is counted as begun or done stays so far apart
        for stage in ("ready", "started", "processed", "completed"):
            setattr(count, stage, getattr(count, stage) + missing)


def is_child(trainer: L.Trainer) -> bool:
    """Whether Lightning started this process; it kills the first one when a child leaves with another code than 0."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and not trainer.is_global_zero


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Take Lightning's own handlers away, and the reduction by which it asks all ranks for a signal at every batch.

    On SIGTERM they end a run with exit code 0 and save nothing, or save within the handler; the reduction makes every
    micro-batch wait for the device.
    """
    cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None
    cast(Any, trainer.fit_loop.epoch_loop)._broadcast_sigterm_tensor = lambda: None
