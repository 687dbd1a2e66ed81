"""The mark of a run that goes on, ``<run>/running.json``: two runs never write in one directory.

It is renewed while the run goes on. A mark of a dead process blocks nobody: it is taken over when it is a minute old,
when it is of the same SLURM job (which was requeued), or of a process of this machine that is no more.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from shear_lit.disk.writing import write_file
from shear_lit.training.errors import RunError

MARK = "running.json"
"""The file's name in the directory of a run."""
TAKEN_OVER_AFTER_SECONDS = 60.0
"""Age of a mark from which on its process counts as dead."""
_RENEWED_EVERY_SECONDS = 10.0
_LONGEST = 10_000
_PROCESSES = Path("/proc/self/ns/pid")


class RunMark:
    """Holds the directory of a run for this process."""

    def __init__(self, directory: Path) -> None:
        """Take the directory, which is made if it is not there.

        Raises:
            RunError: another run is writing in it.
        """
        self._path = directory / MARK
        check_unmarked(directory)
        self.token = uuid.uuid4().hex
        """What tells this mark from all others."""
        write_file(self._path, json.dumps({**_this_process(), "token": self.token}) + "\n")
        self._released = threading.Event()
        threading.Thread(target=self._renew, name="run-mark", daemon=True).start()

    def release(self) -> None:
        """Leave the directory to others."""
        self._released.set()
        if token_in(self._path.parent) == self.token:
            self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._released.wait(_RENEWED_EVERY_SECONDS):
            with suppress(OSError):  # a disk that is away for a moment: the next time, then
                if (holder := _read(self._path)) and holder.get("token") not in (None, self.token):
                    self._end(holder)
                os.utime(self._path)

    def _end(self, holder: dict[str, Any]) -> NoReturn:
        """End this process, which stood still for a minute or longer: what it would write is of no use to the other."""
        sys.stderr.write(
            f"error: fit: process {holder.get('process')} on {holder.get('host')} has taken over "
            f"{str(self._path.parent)!r}, as this one did not renew its mark there. It ends.\n"
        )
        sys.stderr.flush()
        os._exit(1)


def check_unmarked(directory: Path) -> None:
    """Refuse a directory that another run writes in.

    Raises:
        RunError: a run does, with its process and machine.
    """
    path = directory / MARK
    holder = _read(path)
    if holder is None or _may_be_taken(holder, path):
        return
    raise RunError(
        f"{str(directory)!r} is being written by process {holder.get('process')} on {holder.get('host')}: two runs in "
        f"one directory would overwrite each other. Stop that one, or name another directory; a mark "
        f"({MARK}) that is not renewed for {TAKEN_OVER_AFTER_SECONDS:.0f} s is taken over.",
        key="trainer.default_root_dir",
    )


def is_marked(directory: Path) -> bool:
    """Whether a run writes in a directory, as far as can be told without writing there."""
    holder, own = _read(directory / MARK), _this_process()
    if holder is None:
        return False
    if all(holder.get(key) == own[key] for key in ("host", "processes_of")):
        return _is_alive(holder.get("process"))
    with suppress(FileNotFoundError):  # released meanwhile
        return time.time() - (directory / MARK).stat().st_mtime < TAKEN_OVER_AFTER_SECONDS
    return False


def token_in(directory: Path) -> str | None:
    """What tells the mark in a directory from others; None where there is none."""
    holder = _read(directory / MARK)
    return None if holder is None else str(holder.get("token"))


def _read(path: Path) -> dict[str, Any] | None:
    """The mark in a file, empty where it cannot be read as one; None where there is none."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < _LONGEST else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _may_be_taken(holder: dict[str, Any], path: Path) -> bool:
    own = _this_process()
    if own["slurm_job"] is not None and holder.get("slurm_job") == own["slurm_job"]:
        return True
    here = all(holder.get(key) == own[key] for key in ("host", "processes_of"))
    if here and not _is_alive(holder.get("process")):
        return True
    try:
        return _now_at(path.parent) - path.stat().st_mtime >= TAKEN_OVER_AFTER_SECONDS
    except FileNotFoundError:  # released meanwhile
        return True


def _this_process() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        # Containers on one machine may have one name, and count their processes each for itself.
        "processes_of": str(_PROCESSES.readlink()) if _PROCESSES.is_symlink() else "",
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _is_alive(process: Any) -> bool:
    if not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now_at(folder: Path) -> float:
    """The time of the disk that ``folder`` lies on, whose clock may be another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime
