"""A directory that is written wholly or not at all, after a look at whether there is room for it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shear_lit.mistakes import Mistake

_SPARE_BYTES = 64 * 1024**2  # tokenizer, licences and a margin for others who write meanwhile


class DirectoryError(Mistake):
    """A directory that cannot be written where the user asked for it."""


def check_new_directory(directory: Path, *, needed_bytes: int = 0) -> None:
    """Refuse a place that is taken or too small, before anything is computed.

    Raises:
        DirectoryError: ``directory`` is a file, a mount point or not empty, or there is no room for ``needed_bytes``.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        what = "is not empty" if directory.is_dir() else "is a file"
        raise DirectoryError(
            f"output={str(directory)!r} {what}: a model is written to a new or empty directory, so that nothing is "
            f"overwritten. Choose another one, or move what is there."
        )
    if directory.resolve().is_mount():  # "." would always seem to be one
        raise DirectoryError(
            f"output={str(directory)!r} is where a disk is mounted: a finished directory is renamed to its "
            f"place, which cannot be done with that one. Choose a new directory inside it."
        )
    disk = next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(disk).free
    if free < needed_bytes + _SPARE_BYTES:
        raise DirectoryError(
            f"output={str(directory)!r}: {free / 1e9:.2f} GB are free on its disk and "
            f"{(needed_bytes + _SPARE_BYTES) / 1e9:.2f} GB are needed. Free some space, choose a directory on "
            f"another disk, or a narrower --dtype."
        )


@contextmanager
def new_directory(directory: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Give a place to write in, which becomes ``directory`` if the block ends well and is removed if it does not.

    The place is ``<directory>.partial``, on the same disk. A process that is killed leaves it behind, never
    ``directory``; the next call removes it.

    Raises:
        DirectoryError: as ``check_new_directory``.
    """
    check_new_directory(directory, needed_bytes=needed_bytes)
    directory = directory.resolve()  # "." has no name of its own
    partial = directory.with_name(f"{directory.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(directory)
    except BaseException:  # an interrupt, too, leaves nothing half-written
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)
