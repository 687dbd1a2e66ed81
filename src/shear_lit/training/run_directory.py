"""What a run leaves on disk besides its log: checkpoints, gates, and where it came from (DESIGN of a run's folder).

``<run>/checkpoints/step=NNNNNN[.ckpt|/]``, ``<run>/gates/step=NNNNNN.safetensors``, ``<run>/provenance.json``.
"""

import json
import logging
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint

from shear_lit.disk.names import split_revision
from shear_lit.disk.writing import free_path, write_file
from shear_lit.pruning.artefact import gates_file
from shear_lit.pruning.expectation import expected_units
from shear_lit.pruning.scores import LEARNED, Origin
from shear_lit.ranges import Count, KeptCount
from shear_lit.theory.shape import Axis
from shear_lit.training.checkpoints import CheckpointError
from shear_lit.training.errors import RunError
from shear_lit.training.mixture_update import domain_data
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_log import RunLog
from shear_lit.training.strategies import FSDP2Strategy, WholeFileIO

PROVENANCE = "provenance.json"
"""What a run writes when it begins."""
_BEFORE_IT_BEGINS = ("config.yaml", "hparams.yaml", "metrics.csv", "events.out.tfevents.*")
_log = logging.getLogger(__name__)
_PACKAGES = (
    "shear-lit",
    "torch",
    "lightning",
    "transformers",
    "litdata",
    "torchmetrics",
    "safetensors",
    "numpy",
)


class RunCheckpoints(Checkpoint):
    """Write the state of the run every few steps and at its end, and keep the last few.

    A checkpoint of a mixture boundary is written before the validation of its step; a resume runs that first.
    The last one is written after the last validation, whose losses it carries.
    """

    def __init__(self, every_steps: Count = 50, keep: KeptCount = 2) -> None:
        """Say how often and how many.

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
        self._saved_step = -1
        self._paths: list[Path] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let single files, too, appear whole or not at all."""
        trainer.strategy.checkpoint_io = WholeFileIO()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take a resumed state as saved."""
        self._saved_step = trainer.global_step
        folder = checkpoint_folder(trainer)
        if trainer.is_global_zero:
            self._paths = complete_checkpoints(folder)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where a step is complete and its turn has come; the end of the run has its own."""
        step = trainer.global_step
        if step != self._saved_step and step % self.every_steps == 0 and step < trainer.max_steps:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the run."""
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        path = trainer.strategy.broadcast(_free_path(trainer))
        trainer.save_checkpoint(path, weights_only=False)
        self._saved_step = trainer.global_step
        for callback in cast(Any, trainer).callbacks:
            if isinstance(callback, RunLog):
                callback.last_checkpoint = str(path)
        if trainer.is_global_zero:
            self._paths.append(path)
            while self.keep > 0 and len(self._paths) > self.keep:
                _remove(self._paths.pop(0))


class GateFiles(Callback):
    """Write the gates beside each validation, readable without shear_lit, and say so if the end misses its target."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the gates on every rank, and write them on one."""
        module = cast(ShearingModule, pl_module)
        if module.gates is None or module.pruning is None or trainer.state.fn != "fit":
            return
        log_alpha = _whole_gates(module)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "gates"
            origin = Origin(
                source=module.source,
                source_fingerprint=module.source_fingerprint,
                source_shape=module.family.shape,
                criterion=LEARNED,
                data_fingerprint=domain_data(trainer).manifest.fingerprint,
            )
            content = gates_file(log_alpha, origin, exact=module.exact_size())
            write_file(folder / f"step={trainer.global_step:06d}.safetensors", content)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of every axis that is further from its target than an export would take in silence."""
        module = cast(ShearingModule, pl_module)
        if module.gates is None or module.pruning is None:
            return
        for axis in expected_units(_whole_gates(module), module.pruning.shape, module.exact_size()):
            if axis.off_target and trainer.is_global_zero:
                _log.warning("WARNING: %s", axis)


class Provenance(Callback):
    """Write what the run was made of: versions, commit, data and source model."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``provenance.json``, numbered where an earlier start of the same run has left one."""
        if not trainer.is_global_zero:
            return
        module, folder = cast(ShearingModule, pl_module), Path(trainer.default_root_dir)
        name, commit = split_revision(module.source)
        facts = {
            "packages": {name: _version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "commit": _commit(),
            "data": domain_data(trainer).manifest.fingerprint,
            "source": {"name": name, "commit": commit, "fingerprint": module.source_fingerprint},
            "world_size": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
            "from_step": trainer.global_step,
        }
        write_file(free_path(folder / PROVENANCE), json.dumps(facts, indent=2) + "\n")


@contextmanager
def nothing_left(directory: Path) -> Iterator[None]:
    """Remove what the block has written into a new directory of a run, if it fails before the run began.

    A checkpoint is read after the settings were written beside it: if it is damaged, the directory is as it was, and
    the same command can be given again with another one.
    """
    was_there = directory.is_dir()
    is_new = not was_there or not any(directory.iterdir())
    try:
        yield
    except Exception:
        if is_new and not (directory / PROVENANCE).exists():
            with suppress(OSError):  # every rank removes, and one of them is the first
                for path in [path for name in _BEFORE_IT_BEGINS for path in directory.glob(name)]:
                    path.unlink(missing_ok=True)
                if not was_there:
                    directory.rmdir()
        raise


def checkpoint_folder(trainer: L.Trainer) -> Path:
    """Where the run's checkpoints lie."""
    return Path(trainer.default_root_dir) / "checkpoints"


def latest_checkpoint(run: str | Path) -> str:
    """The newest complete checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(run) / "checkpoints"
    found = complete_checkpoints(folder)
    if not found:
        raise CheckpointError(
            f"ckpt_path=last: {folder} holds no complete checkpoint. "
            f"Set trainer.default_root_dir to the run that should go on, or remove --ckpt_path to begin one."
        )
    return str(found[-1])


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, the newest last: by step, and of one step by the number of the attempt."""

    def age(path: Path) -> tuple[int, int]:
        step, _, attempt = path.name.removesuffix(".ckpt").removeprefix("step=").partition("-")
        return int(step), int(attempt or 1)

    named = (path for path in folder.glob("step=*") if re.fullmatch(r"step=\d+(-\d+)?(\.ckpt)?", path.name))
    return sorted((path for path in named if is_complete(path)), key=age)


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return path.suffix == ".ckpt" or (path.suffix == "" and (path / "meta.pt").is_file())


def _free_path(trainer: L.Trainer) -> Path:
    """The checkpoint's name; a step that was saved before, by a run that was then resumed from earlier, stays."""
    sharded = isinstance(trainer.strategy, FSDP2Strategy) and trainer.strategy.saves_shards
    return free_path(
        checkpoint_folder(trainer) / f"step={trainer.global_step:06d}{'' if sharded else '.ckpt'}"
    )


def _remove(path: Path) -> None:
    _log.info("removing checkpoint %s: checkpoint.keep newer ones exist", path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _whole_gates(module: ShearingModule) -> dict[Axis, torch.Tensor]:
    """The gates' parameters on the CPU; every rank must ask."""
    assert module.gates is not None
    return {axis: _whole(parameter) for axis, parameter in module.gates.log_alpha().items()}


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter on the CPU, gathered where it is sharded (on all ranks, which must call this together)."""
    detached = parameter.detach()
    whole = cast(Any, detached).full_tensor() if hasattr(detached, "full_tensor") else detached
    return cast(torch.Tensor, whole).cpu().contiguous()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the code, where it runs from a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
