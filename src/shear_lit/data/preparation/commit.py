"""Making a run's files part of the output: all at once for new data, the manifest last where files are added."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.manifest import INDEX, MANIFEST, Manifest
from shear_lit.data.preparation.ledger import LEDGER

_LOCK = "lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make ``directory``, keep other runs out of it, and remove it if it holds nothing in the end.

    Raises:
        DataError: another run is at work there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):  # noqa: PTH116 (beside its twin)
                raise BlockingIOError  # another run has just removed it, and a third may have made it anew
        except (BlockingIOError, FileNotFoundError) as error:
            raise DataError(
                f"output: another run is at work in {str(directory)!r}. Wait until it ends, or stop it; this one would "
                "go on from there."
            ) from error
        try:
            yield
        finally:
            if [path.name for path in directory.glob("*")] == [_LOCK]:  # nothing was done, or all is
                shutil.rmtree(directory)


def commit(packed: Path, output: Path) -> None:
    """Move what is in ``packed`` to ``output``.

    What the old manifest names stays as it is until the new one takes its place, and the new one is the last file that
    is moved: a run that is stopped here leaves the old data, and the next one moves the same files again.
    """
    _sync(packed)
    if not (output / MANIFEST).is_file():
        os.replace(packed, output)  # noqa: PTH105 (the standard's word for "atomic"; an empty directory may be there)
    else:
        files = sorted((path for path in packed.rglob("*") if path.is_file()), key=_moving_order)
        for path in files:
            target = output / path.relative_to(packed)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        _sync(output)
    _sync_directory(output.absolute().parent)


def clear(output: Path, manifest: Manifest) -> None:
    """Remove what a run that was stopped while it added files left behind: what the manifest does not name."""
    for folder in (output / LEDGER).glob("*"):
        if folder.name != str(manifest.runs):
            shutil.rmtree(folder)
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            named = {chunk.file for chunk in record.chunks}
            for path in (output / name / split).glob("chunk-*"):
                if path.name not in named:
                    path.unlink()


def clear_work(directory: Path) -> None:
    """Remove what a run that is done worked with."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _moving_order(path: Path) -> tuple[int, str]:
    """Chunks, indices, the ledger, the manifest: each names only what is there already."""
    order = {INDEX: 1, MANIFEST: 3}.get(path.name, 2 if LEDGER in path.parts else 0)
    return order, str(path)


def _sync(directory: Path) -> None:
    """Have the names of all files reach the disk; their contents did when they were written."""
    for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        _sync_directory(folder)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
