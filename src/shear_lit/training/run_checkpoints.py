"""The checkpoints of a run's directory: ``<run>/checkpoints/step=NNNNNN[.ckpt|/]``, each complete or absent."""

import logging
import re
import shutil
from pathlib import Path

from shear_lit.disk.writing import free_path
from shear_lit.training.errors import CheckpointError

_NAME = re.compile(r"step=(?P<step>\d+)(-(?P<attempt>\d+))?(\.ckpt)?")
_REMOVED = ".removed"
_log = logging.getLogger(__name__)


def checkpoint_folder(run: str | Path) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(run) / "checkpoints"


def free_checkpoint(run: str | Path, step: int, *, sharded: bool) -> Path:
    """A name for the checkpoint of a step; one of the same step, from which a run was resumed, stays beside it."""
    return free_path(checkpoint_folder(run) / f"step={step:06d}{'' if sharded else '.ckpt'}")


def latest_checkpoint(run: str | Path) -> str:
    """The newest complete checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    found = complete_checkpoints(run)
    if not found:
        raise CheckpointError(
            f"ckpt_path=last: {checkpoint_folder(run)} holds no complete checkpoint. Set trainer.default_root_dir to "
            f"the run that should go on, or use --ckpt_path auto, which begins one where there is none."
        )
    return str(found[-1])


def complete_checkpoints(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run, the newest last: by step, and of one step by the number of the attempt."""

    def age(path: Path) -> tuple[int, int]:
        return step_of(path), int(_NAME.fullmatch(path.name)["attempt"] or 1)  # type: ignore[index]

    named = (path for path in checkpoint_folder(run).glob("step=*") if _NAME.fullmatch(path.name))
    return sorted((path for path in named if is_complete(path)), key=age)


def step_of(path: Path) -> int:
    """The optimizer steps that a checkpoint has behind it, by its name; -1 where it was given another one."""
    named = _NAME.fullmatch(path.name)
    return int(named["step"]) if named else -1


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (path / "meta.pt").is_file() if path.suffix == "" else path.is_file()


def remove_all_but(newest: int, run: str | Path) -> None:
    """Remove the oldest complete checkpoints of a run, so that ``newest`` are left."""
    for path in complete_checkpoints(run)[:-newest]:
        _log.info("removing checkpoint %s: checkpoint.keep newer ones exist", path)
        if path.is_dir():  # under a name of no checkpoint, so that it is never half of one
            shutil.rmtree(path.rename(path.with_name(f"{path.name}{_REMOVED}")))
        else:
            path.unlink()


def remove_half_written(run: str | Path) -> None:
    """Remove what is left of checkpoints that were being written or removed when a process was killed."""
    for path in checkpoint_folder(run).glob("step=*"):
        if path.name.endswith((".partial", _REMOVED)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
