"""Files that appear whole or not at all, and a look at a place before the work whose result goes there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from shear_lit.mistakes import Mistake


class OutputError(Mistake):
    """A place where a result cannot be written."""


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; its folders are made."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place to write in, which becomes ``path`` if the block ends well and is removed if it does not.

    The place is ``<path>.partial`` beside it. What is renamed was handed to the disk first, so that a machine that
    stops leaves the old file or the new one.
    """
    path = path.resolve() if path.is_symlink() else path  # the link stays, and what it leads to is renewed
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # an interrupt, too, leaves nothing half-written
        partial.unlink(missing_ok=True)
        raise


def free_path(path: Path) -> Path:
    """``path`` itself, or the first of ``name-2.suffix``, ``name-3.suffix``, ... that does not exist."""
    if not path.exists():
        return path
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(place for place in numbered if not place.exists())


def check_new_file(path: Path, *, key: str, what: str) -> None:
    """Refuse a file that is there already, or cannot be written, before anything is computed.

    Raises:
        OutputError: ``path`` exists, or as ``check_file``; it names ``key``.
    """
    if path.is_file() or path.is_symlink():
        raise OutputError(
            f"{str(path)!r} exists: {what} are not overwritten. Choose another file, or move that one.",
            key=key,
        )
    check_file(path, key=key)


def check_file(path: Path, *, key: str) -> None:
    """Refuse a place where no file can be written, before anything is computed; nothing is left there.

    Raises:
        OutputError: ``path`` is a directory or ends like one, or its folder cannot be made or written in.
    """
    if path.is_dir() or path.name == "":
        raise OutputError(f"{str(path)!r} is a directory, and a file is written. Name a file in it.", key=key)
    if path.exists() and not path.is_file():
        raise OutputError(f"{str(path)!r} is a pipe or a device. Name a file.", key=key)
    if path.is_symlink() and not path.exists():
        raise OutputError(
            f"{str(path)!r} is a link to {str(path.readlink())!r}, which is not there. Name the file itself.",
            key=key,
        )
    check_folder(path.parent, key=key, shown=path)


def check_folder(folder: Path, *, key: str, shown: Path | None = None) -> None:
    """Refuse a folder that can neither be made nor written in; nothing is made.

    Raises:
        OutputError: it cannot be written in; the message shows the path ``shown`` under ``key``.
    """
    asked = folder if shown is None else shown
    if asked.parts[:1] and asked.parts[0].startswith("~"):  # expanded before, if there were such a user
        raise OutputError(
            f"{str(asked)!r}: there is no user {asked.parts[0]!r}. Choose another place.", key=key
        )
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not place.is_dir():
        raise OutputError(
            f"{str(asked)!r}: {str(place)!r} is no directory, so that nothing can be written inside it. "
            f"Choose another place.",
            key=key,
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"{str(asked)!r} cannot be written: this user may not write in {str(place)!r}. Choose another place.",
            key=key,
        )
