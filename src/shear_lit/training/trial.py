"""``trainer.fast_dev_run``: whether a run works at all, in two steps that leave nothing behind."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shear_lit.training.errors import RunError
from shear_lit.training.shipped import listed

STEPS = 2
"""Optimizer steps of a trial: the second one is taken with moments that the first one left."""
_log = logging.getLogger(__name__)


@contextmanager
def trial(settings: Any, *, fitting: bool) -> Iterator[None]:
    """Make a trial of the settings of a run, in a directory that the end of the block removes.

    It lies where the run's directory would: on the disk that has to hold the checkpoints.

    Raises:
        RunError: what is asked for cannot be tried.
    """
    _check(settings, fitting=fitting)
    beside = next(
        path for path in Path(settings.trainer.default_root_dir).absolute().parents if path.is_dir()
    )
    with tempfile.TemporaryDirectory(prefix="shear-lit-trial-", dir=beside) as place:
        _log.info(
            "trainer.fast_dev_run: %d steps, a validation and a checkpoint in %s; nothing of it is kept",
            STEPS,
            place,
        )
        _shorten(settings)
        _keep_inside(settings.trainer, place)
        yield


def _check(settings: Any, *, fitting: bool) -> None:
    value = settings.trainer.fast_dev_run
    if value is not True:
        raise RunError(
            f"{value} is no trial of this package, which is always {STEPS} steps, a validation and a checkpoint. "
            f"Use true.",
            key="trainer.fast_dev_run",
        )
    if not fitting:
        raise RunError(
            "true tries a run, and validate begins none. Leave it out; data.validation_sequences is how much it reads.",
            key="trainer.fast_dev_run",
        )
    if settings.get("ckpt_path") not in (None, "auto"):
        raise RunError(
            "true tries the beginning of a run, and ckpt_path goes on with another. Leave one of them out.",
            key="trainer.fast_dev_run",
        )
    if settings.trainer.num_nodes != 1:
        raise RunError(
            "true keeps its files on one machine. Try the run with trainer.num_nodes=1.",
            key="trainer.fast_dev_run",
        )


def _shorten(settings: Any) -> None:
    """Two steps with one update of the mixture behind them, and warm-ups that fit."""
    trainer, model = settings.trainer, settings.model
    trainer.fast_dev_run = False
    trainer.max_steps = settings.data.mixture.update_every_steps = settings.checkpoint.every_steps = STEPS
    trainer.log_every_n_steps = 1
    settings.data.mixture.update_at_start = False
    model.optimizer.warmup_steps = min(STEPS, model.optimizer.warmup_steps)
    if model.pruning is not None:
        model.pruning.sparsity_warmup_steps = min(STEPS, model.pruning.sparsity_warmup_steps)


def _keep_inside(trainer: Any, place: str) -> None:
    """Let nothing be written elsewhere: by no service that the run would log to, and by no class with a folder."""
    trainer.default_root_dir = place
    trainer.logger = trainer.logger is not False
    for item in [trainer.profiler, *listed(trainer.callbacks)]:
        arguments = getattr(item, "init_args", None)
        if arguments is not None and arguments.get("dirpath") is not None:
            arguments.dirpath = None
