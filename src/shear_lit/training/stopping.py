"""The end of a run that a signal has stopped: all leave together, and under SLURM the job goes back to its queue."""

import logging
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass

import lightning as L

from shear_lit.training.boundary import Boundary
from shear_lit.training.lightning_loops import is_child
from shear_lit.training.run_checkpoints import complete_checkpoints
from shear_lit.training.signals import exit_code

_PATIENCE_SECONDS = 30
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stopped:
    """How a run was stopped."""

    line: str
    """What is said of it; empty in all processes but the first."""
    exit_code: int
    """Of this process."""

    def __str__(self) -> str:
        return self.line


def stopped_by(trainer: L.Trainer) -> Stopped | None:
    """How a run was stopped by a signal, if it was; all processes return together, and the first requeues the job."""
    (boundary,) = [each for each in trainer.checkpoint_callbacks if isinstance(each, Boundary)]
    if not boundary.told:
        return None
    if trainer.is_global_zero and boundary.told == signal.SIGUSR1:
        _requeue()
    trainer.strategy.barrier("stopped")
    if not trainer.is_global_zero:
        return Stopped("", 0 if is_child(trainer) else exit_code(boundary.told))
    saved = complete_checkpoints(trainer.default_root_dir)
    where = f"saved in {saved[-1]}" if saved else "not saved: no step was taken"
    line = (
        f"stopped by {signal.Signals(boundary.told).name} after step {trainer.global_step} of {trainer.max_steps}, "
        f"{where}. The same command with --ckpt_path auto goes on."
    )
    return Stopped(line, exit_code(boundary.told))


def _requeue() -> None:
    """Put the SLURM job that this is back into its queue, if it is one and may be put there."""
    job = os.environ.get("SLURM_JOB_ID")
    program = shutil.which("scontrol")
    if job is None or program is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(
            [program, "requeue", job], capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("SLURM job %s was not requeued: %s", job, error)
        return
    if done.returncode:
        _log.warning("SLURM job %s was not requeued: %s", job, done.stderr.strip() or done.returncode)
    else:
        _log.info("SLURM job %s is in its queue again", job)
