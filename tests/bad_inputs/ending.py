"""How commands end, each in a process that is forked off one import."""

import hashlib
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shear_lit import cli
from shear_lit.commands import (  # noqa: F401  (imported once, before the forks)
    check,
    data,
    exporting,
    fit,
    from_mds,
    gate_table,
    measuring,
    mending,
    prepare,
    ranking,
    reference,
    verification,
)
from shear_lit.commands.demo import run as demo_run  # noqa: F401
from tests.training import forks

AT_ONCE = 2
"""Commands that run beside each other."""
SECONDS = 60.0
"""After which a command counts as hanging."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    said: str
    """What it printed, to both streams."""
    left: tuple[str, ...]
    """What it left in the directory that it was started in, and changed among the files that it was given."""
    memory: int
    """Bytes by which its memory grew."""
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The lines that begin with ``error:``."""
        return [line for line in self.said.splitlines() if line.startswith("error:")]


def run_command(arguments: Sequence[str], place: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run a command line in ``place``; to be called in a process of its own."""
    os.chdir(place)
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **environment})
    before, start, code = _peak(), time.monotonic(), 0
    try:
        cli.main(list(arguments))
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    return {"code": code, "memory": _peak() - before, "seconds": time.monotonic() - start}


def _peak() -> int:
    return (
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        * 1024
    )


def endings(
    commands: Sequence[tuple[Sequence[str], Path]], log: Path, *, environment: dict[str, str] | None = None
) -> Iterator[Ending]:
    """How each of the command lines ends that are started in a directory of their own, in order."""
    waiting = list(enumerate(commands))
    running: list[tuple[forks.Forked, Path, dict[str, str]]] = []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, (arguments, place) = waiting.pop(0)
            options = dict(arguments=list(arguments), place=str(place), environment=environment or {})
            running.append((forks.start(run_command, log / str(number), **options), place, files_in(place)))
        forked, place, before = running.pop(0)
        try:
            (found,) = forked.wait(SECONDS)
        except forks.ForkError as error:
            found = {"code": -1, "memory": 0, "seconds": SECONDS}
            yield Ending(said=str(error), left=(), **found)
            continue
        after = files_in(place)
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        yield Ending(said=forked.output(), left=tuple(sorted(changed)), **found)


def files_in(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and path.stat().st_size < 1 << 24
        else ""
        if path.is_dir()
        else f"{path.lstat().st_size}"
        for path in sorted(folder.rglob("*"))
    }
