"""A directory that is written wholly or not at all, after a look at whether there is room for it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shear_lit.disk.writing import OutputError, check_folder

_SPARE_BYTES = 64 * 1024**2  # tokenizer, licences and a margin for others who write meanwhile


class DirectoryError(OutputError):
    """A directory that cannot be written where the user asked for it."""


def check_new_directory(directory: Path, *, needed_bytes: int = 0) -> None:
    """Refuse a place that is taken, cannot be written or is too small, before anything is computed.

    Raises:
        OutputError: ``directory`` is a file, a dangling link, a mount point or not empty, there is no room for
            ``needed_bytes``, or a file or a missing right is in the way of it.
    """
    shown = repr(str(directory))
    if directory.is_symlink() and not directory.exists():
        raise DirectoryError(
            f"{shown} is a link to {str(directory.readlink())!r}, which is not there. Name the directory itself.",
            key="output",
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        what = "is not empty" if directory.is_dir() else "is a file"
        raise DirectoryError(
            f"{shown} {what}: a model is written to a new or empty directory, so that nothing is overwritten. "
            f"Choose another one, or move what is there.",
            key="output",
        )
    if directory.resolve().is_mount():  # "." would always seem to be one
        raise DirectoryError(
            f"{shown} is where a disk is mounted: a finished directory is renamed to its place, which cannot be done "
            f"with that one. Choose a new directory inside it.",
            key="output",
        )
    partial = _partial(directory)
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise DirectoryError(
            f"{shown} is written as {str(partial)!r} at first, and a file or a link is there. Move that one, or "
            f"choose another directory.",
            key="output",
        )
    check_folder(partial.parent, key="output", shown=directory)
    disk = next(path for path in partial.parents if path.is_dir())
    free = shutil.disk_usage(disk).free
    if free < needed_bytes + _SPARE_BYTES:
        raise DirectoryError(
            f"{shown}: {free / 1e9:.2f} GB are free on its disk and {(needed_bytes + _SPARE_BYTES) / 1e9:.2f} GB are "
            f"needed. Free some space, choose a directory on another disk, or a narrower --dtype.",
            key="output",
        )


def _partial(directory: Path) -> Path:
    """Where a directory is written at first; "." has no name of its own."""
    directory = directory.resolve()
    return directory.with_name(f"{directory.name}.partial")


@contextmanager
def new_directory(directory: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Give a place to write in, which becomes ``directory`` if the block ends well and is removed if it does not.

    The place is ``<directory>.partial``, on the same disk. A process that is killed leaves it behind, never
    ``directory``; the next call removes it.

    Raises:
        OutputError: as ``check_new_directory``.
    """
    check_new_directory(directory, needed_bytes=needed_bytes)
    directory, partial = directory.resolve(), _partial(directory)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(directory)
    except BaseException:  # an interrupt, too, leaves nothing half-written
        shutil.rmtree(partial, ignore_errors=True)
        raise


def same_file(path: Path, place: Path) -> None:
    """Give a file a second name, for a view of a directory that holds no links: a copy where disks differ."""
    try:
        os.link(path.resolve(), place)
    except OSError:
        shutil.copyfile(path, place)
