"""How a run begins in its directory: anew, from a checkpoint, or not at all."""

import fnmatch
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning as L

from shear_lit.disk.writing import check_folder, free_path
from shear_lit.training.errors import RunError
from shear_lit.training.run_checkpoints import complete_checkpoints, latest_checkpoint
from shear_lit.training.run_files import CONFIG, METRICS, PROVENANCE
from shear_lit.training.run_mark import MARK, RunMark, check_unmarked, token_in

AUTO, LAST = "auto", "last"
"""Words of ``--ckpt_path``: the newest complete checkpoint, or a new run where there is none; and the newest one."""
PATIENCE_SECONDS = 90.0
"""How long another machine may take to show a new file; NFS keeps for up to a minute what was not there."""
_LOOKS_EVERY_SECONDS = 0.2
_KEPT_ASIDE = "failed-start"
_OF_A_START = (
    "config*.yaml",
    "hparams*.yaml",
    "metrics*.csv",
    "events.out.tfevents.*",
    "mixture*.json",
    "provenance*.json",
    "gates",
    "checkpoints",
    # The folders of other loggers.
    "lightning_logs",
    "wandb",
    "mlruns",
)
_MAY_STAY = (MARK, f"{MARK}.partial", f"{_KEPT_ASIDE}*")
_BEFORE_IT_BEGINS = (CONFIG, "hparams.yaml", METRICS, "events.out.tfevents.*")
_log = logging.getLogger(__name__)


def checkpoint_to_start_from(asked: str | None, directory: str | Path) -> str | None:
    """The checkpoint that ``--ckpt_path`` means for a run in ``directory``; None: the run begins.

    Raises:
        CheckpointError: the newest one is asked for, and there is none.
    """
    if asked == LAST or (asked == AUTO and complete_checkpoints(directory)):
        return latest_checkpoint(directory)
    return None if asked == AUTO else asked


def check_directory(directory: Path, checkpoint: str | None) -> None:
    """Refuse a directory in which a run cannot begin, or go on from ``checkpoint``; nothing is written.

    Raises:
        OutputError, RunError: it cannot be written in, another run writes there, or it holds something else.
    """
    check_folder(directory, key="trainer.default_root_dir")
    check_unmarked(directory)
    if _goes_on(directory, checkpoint) or not directory.is_dir():
        return
    if complete_checkpoints(directory):
        raise RunError(
            f"{str(directory)!r} is not empty: a run lies there that can go on, and nothing of it is ever overwritten. "
            f"Resume it with --ckpt_path auto, or name another directory.",
            key="trainer.default_root_dir",
        )
    if foreign := [name for name in _names_in(directory) if not _is_of(name, (*_OF_A_START, *_MAY_STAY))]:
        raise RunError(
            f"{str(directory)!r} is not empty: it holds {foreign[0]!r}, which is of no run. A run writes into a "
            f"directory of its own. Name another one.",
            key="trainer.default_root_dir",
        )


def set_aside_failed_start(directory: Path) -> None:
    """Move what a start has left that failed before its first checkpoint into a folder of its own."""
    left = [name for name in _names_in(directory) if _is_of(name, _OF_A_START)]
    if not left or complete_checkpoints(directory):
        return
    aside = free_path(directory / _KEPT_ASIDE)
    aside.mkdir()
    for name in left:
        (directory / name).rename(aside / name)
    _log.info(
        "%s holds no complete checkpoint: the run begins; what an earlier start left is in %s",
        directory,
        aside,
    )


@contextmanager
def marked(trainer: L.Trainer, checkpoint: str | None) -> Iterator[None]:
    """Hold the directory of a run while the block lasts; the first process does it for all.

    Raises:
        RunError: another run has taken it.
    """
    if not trainer.is_global_zero:
        yield
        return
    directory = Path(trainer.default_root_dir)
    mark = RunMark(directory)
    try:
        if not _goes_on(directory, checkpoint):
            set_aside_failed_start(directory)
        yield
    finally:
        mark.release()


def check_all_see(trainer: L.Trainer) -> None:
    """Refuse a directory that some process does not share with the first one, or in which it found another checkpoint.

    Every process must ask.

    Raises:
        RunError: the directory is local to a machine, or the disk shows another state of it.
    """
    if trainer.world_size == 1:
        return
    directory, path = Path(trainer.default_root_dir), trainer.ckpt_path
    own_path = None if path is None else str(path)
    token, first_path = trainer.strategy.broadcast((token_in(directory), own_path))
    differs = first_path != own_path or not _shows(directory, token)
    if not trainer.strategy.reduce_boolean_decision(not differs, all=True):
        raise RunError(
            f"{str(directory)!r} is not the same directory for all processes: each machine would keep a part of every "
            f"checkpoint, and none could be resumed. Name one on storage that all machines share.",
            key="trainer.default_root_dir",
        )


def _shows(directory: Path, token: str | None) -> bool:
    """Whether the mark of the first process is in a directory; a disk of several machines may show it late."""
    end = time.monotonic() + PATIENCE_SECONDS
    while token_in(directory) != token:
        if time.monotonic() > end:
            return False
        time.sleep(_LOOKS_EVERY_SECONDS)
        with suppress(OSError):  # what was not there is looked up again when its folder is listed
            _ = [path.name for path in (*directory.parent.iterdir(), *directory.iterdir())]
    return True


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


def _goes_on(directory: Path, checkpoint: str | None) -> bool:
    """Whether the run that lies in a directory goes on, not one that lies elsewhere or a new one."""
    return checkpoint is not None and directory.resolve() in Path(checkpoint).resolve().parents


def _names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def _is_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
