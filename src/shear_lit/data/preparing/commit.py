"""Where a run works and writes: its places, tried before the work, and its files, which become part of the output.

New data appears all at once; where files are added, the manifest comes last.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import INDEX, LEDGER, MANIFEST, PAGE, Manifest
from shear_lit.disk.names import expanded, leads_outside
from shear_lit.disk.writing import check_folder

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors that say that a disk has no space left."""

SELECTION = "selection.json"
"""The file of a run's directory that says what was selected, and how often the data was added to then."""

_LOCK = "lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_log = logging.getLogger(__name__)
# What a run makes in the directory that it works in; what has another name is somebody else's.
_OF_A_RUN = re.compile(
    r"lock|spool|sections|packed|chunks|scratch|(tokenizer|plan|selection|upload)\.json|(all-)?grams\.(npz|bin)|"
    r"tasks\.jsonl|marks|duplicates|bucket-[0-9]+|.*\.partial|.*\.part"
)
_CHUNK_OF_A_RUN = re.compile(r"chunk-0-[0-9]+\.(bin|documents|mask)(\.shorter)?(\.[0-9]+)?(\.part)?")


def output_place(asked: str) -> Path:
    """The directory that ``asked`` means, links followed, after a look at whether one can be written there.

    Raises:
        DataError: it is a file, a link to nothing, the current directory, or where a disk is mounted.
        OutputError: its folder cannot be made or written in.
    """
    path = expanded(asked)
    if "\0" in asked or (path.parts[:1] and path.parts[0].startswith("~")):
        raise _refused(asked, "there is no such user or place")
    try:
        if path.exists() and not path.is_dir():
            raise _refused(asked, "it is a file, and a directory is written")
        if path.is_symlink() and not path.exists():
            raise _refused(asked, f"it is a link to {str(path.readlink())!r}, which is not there")
        real = Path(os.path.realpath(path))
        if not (real / MANIFEST).is_file() and (real == Path.cwd() or real.is_mount() or not real.name):
            raise _refused(
                asked, "a finished directory is renamed to its place, which cannot be done with that one"
            )
        check_folder(real.parent, key="output", shown=path)
        if real.is_dir():
            check_folder(real, key="output")
    except OSError as error:
        raise _refused(asked, f"it cannot be looked at ({error.strerror or error})") from error
    return real


def _refused(asked: str, why: str) -> DataError:
    return DataError(f"{asked!r}: {why}. Name a new directory.", key="output")


@contextmanager
def locked(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Make ``directory``, keep other runs out of it, and remove it if it holds nothing in the end.

    With ``shared``, others that share it may be at work there, too.

    Raises:
        DataError: another run is at work there, or it holds what no run has made.
    """
    _check_own(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / _LOCK, "w", opener=_not_through_links) as file:
        try:
            _lock(file.fileno(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):  # noqa: PTH116 (beside its twin)
                raise BlockingIOError  # another run has just removed it, and a third may have made it anew
        except (BlockingIOError, FileNotFoundError) as error:
            raise DataError(
                f"{str(directory)!r}: another run is at work there. Wait until it ends, or stop it; this one would "
                "go on from there.",
                key="output",
            ) from error
        try:
            yield
        finally:
            if [path.name for path in directory.glob("*")] == [_LOCK]:  # nothing was done, or all is
                with suppress(BlockingIOError):  # others that share it are about to begin
                    _lock(file.fileno(), fcntl.LOCK_EX)
                    shutil.rmtree(directory)


def _lock(descriptor: int, kind: int) -> None:
    """Take a lock, where the file system knows of such; several machines need one that does so for all of them."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("the file system of the output has no locks: let no two stages run there at once")


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _check_own(directory: Path) -> None:
    """Refuse a directory that a run would work in, and clear in the end, if not all in it is of a run."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise DataError(
            f"{str(directory)!r} is a link or a file: a directory of that name is worked in, and removed in the end. "
            "Move it away, or choose another output.",
            key="output",
        )
    there = sorted(directory.iterdir()) if directory.is_dir() else []
    foreign = [path for path in there if path.is_symlink() or not _OF_A_RUN.fullmatch(path.name)]
    if foreign:
        raise DataError(
            f"{str(foreign[0])!r} is not of this command, which works in a directory of that name and clears it in "
            "the end. Move it away, or choose another output.",
            key="output",
        )


def commit(packed: Path, output: Path) -> None:
    """Move what is in ``packed`` to ``output``.

    What the old manifest names stays as it is until the new one takes its place, and the new one is the last file that
    is moved: a run that is stopped here leaves the old data, and the next one moves the same files again.
    """
    _sync(packed)
    if not (output / MANIFEST).is_file():
        os.replace(packed, output)  # noqa: PTH105 (the standard's word for "atomic"; an empty directory may be there)
    else:
        files = sorted((path for path in packed.rglob("*") if path.is_file()), key=moving_order)
        for path in files:
            target = output / path.relative_to(packed)
            if leads_outside(target.parent, output):
                raise _refused(str(target.parent), "it is a link that leads out of the data")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        _sync(output)
    _sync_directory(output.absolute().parent)


def clear(output: Path, manifest: Manifest) -> None:
    """Remove what a run that was stopped while it added files left behind: what the manifest does not name."""
    for folder in (output / LEDGER).glob("*"):
        if folder.name.isdecimal() and folder.name != str(manifest.runs) and _is_own_folder(folder, output):
            shutil.rmtree(folder)
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            named = {one.file for chunk in record.chunks for one in chunk.files()}
            for path in (output / name / split).glob("chunk-*"):
                if path.name not in named and _CHUNK_OF_A_RUN.fullmatch(path.name):
                    path.unlink()


def is_of_stopped_run(name: str, manifest: Manifest) -> bool:
    """Whether ``name``, from the output on, is one of what ``clear`` removes; the manifest does not name it."""
    folder, _, file = name.rpartition("/")
    if folder.startswith(f"{LEDGER}/"):
        return folder.removeprefix(f"{LEDGER}/").isdecimal() and folder != f"{LEDGER}/{manifest.runs}"
    domain, _, split = folder.partition("/")
    known = domain in manifest.domains and split in manifest.domains[domain].splits
    return known and _CHUNK_OF_A_RUN.fullmatch(file) is not None


def _is_own_folder(path: Path, output: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not leads_outside(path, output)


def clear_work(directory: Path) -> None:
    """Remove what a run that is done worked with; last what says that it is."""
    for path in sorted(directory.iterdir(), key=lambda path: path.name == SELECTION):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def moving_order(path: Path) -> tuple[int, str]:
    """Chunks, indices, the ledger and the page, the manifest: each names only what is there already."""
    order = {INDEX: 1, PAGE: 2, MANIFEST: 3}.get(path.name, 2 if LEDGER in path.parts else 0)
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


def disk_error(place: Path, error: OSError) -> DataError:
    """What to say of a disk that cannot be written."""
    what = "its disk is full" if error.errno in FULL else f"it cannot be written ({error.strerror or error})"
    return DataError(
        f"{str(place)!r}: {what}. Make space, or repair the disk, and run the same command again: it "
        "continues where it stopped, nothing that was finished is done twice.",
        key="output",
    )
