"""The files that were verified on this node since it started: each is hashed once for all processes of a user.

The record is a folder in memory (``XDG_RUNTIME_DIR``, or else ``/dev/shm``), so that a node that stops forgets it, and
a prepared directory may be read-only. A mark is an empty file whose name is a hash of what a file was when it was
verified: its expected content, its place on the disk, size and times. A file that is written to, or replaced, has no
mark. What a disk changes by itself is found when a mark is a day old, after the node has started anew, or by
``shear-lit prepare --check``, which reads everything.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

TRUSTED_SECONDS = 24 * 3600
"""For so long a mark saves reading a file again."""

_MEMORY = Path("/dev/shm")


class VerifiedFiles:
    """What this process, and the others of this node, know to be whole."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def problem(
        self, path: Path, sha256: str, look: Callable[[], str | None], *, moves: bool = False
    ) -> str | None:
        """What ``look`` finds wrong with a file, which is asked only if nobody has verified it as it is.

        ``moves``: its change time is no part of what it is, as it is renamed, and noted when it was read.
        """
        mark = _mark(path, sha256, moves=moves)
        if mark in self._known:
            return None
        folder = _folder(os.environ.get("XDG_RUNTIME_DIR", ""))
        if mark is None or folder is None:
            return self._looked(path, sha256, look, moves=moves)
        if not _is_fresh(folder / mark):
            with FileLock(folder / f"{mark[:2]}.lock"):
                if not _is_fresh(folder / mark):
                    return self._looked(path, sha256, look, moves=moves)
        self._known.add(mark)
        return None

    def note(self, path: Path, sha256: str, *, moves: bool = False) -> None:
        """Remember that a file was just verified."""
        if (mark := _mark(path, sha256, moves=moves)) is None:
            return
        self._known.add(mark)
        folder = _folder(os.environ.get("XDG_RUNTIME_DIR", ""))
        if folder is not None:
            with suppress(OSError):  # without a record each process verifies for itself
                (folder / mark).touch()

    def _looked(self, path: Path, sha256: str, look: Callable[[], str | None], *, moves: bool) -> str | None:
        before = _mark(path, sha256, moves=moves)
        if (what := look()) is not None:
            return what
        if before == _mark(
            path, sha256, moves=moves
        ):  # else it was changed meanwhile: the next one looks again
            self.note(path, sha256, moves=moves)
        return None


def once_in(seconds: float, name: str) -> bool:
    """Whether no process of this node was told so for ``name`` within the last ``seconds``; without a record, yes."""
    folder = _folder(os.environ.get("XDG_RUNTIME_DIR", ""))
    if folder is None:
        return True
    stamp = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.said"
    with suppress(OSError), FileLock(folder / "said.lock"):
        if stamp.exists() and time.time() - stamp.stat().st_mtime < seconds:
            return False
        stamp.touch()
    return True


def _mark(path: Path, sha256: str, *, moves: bool) -> str | None:
    try:
        found = path.stat()
    except OSError:
        return None
    changed = 0 if moves else found.st_ctime_ns
    parts = (sha256, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, changed)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _is_fresh(mark: Path) -> bool:
    try:
        return 0 <= time.time() - mark.stat().st_mtime + 1 < TRUSTED_SECONDS
    except OSError:
        return False


@lru_cache(maxsize=8)
def _folder(runtime: str) -> Path | None:
    """Where the record lies: a folder that this user alone can write in; none if there is no such place."""
    places = ([Path(runtime) / "shear_lit"] if runtime else []) + [_MEMORY / f"shear_lit-{os.getuid()}"]
    for place in places:
        with suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.lstat()
            private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
            if private and found.st_uid == os.getuid() and os.access(place, os.W_OK | os.X_OK):
                _forget_old(place)
                return place
    return None


def _forget_old(folder: Path) -> None:
    """Remove marks that are trusted no longer."""
    now = time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if not entry.name.endswith(".lock") and now - entry.stat().st_mtime > TRUSTED_SECONDS:
                    os.unlink(entry.path)  # noqa: PTH108
