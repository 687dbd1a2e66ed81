"""A command at a pseudo-terminal, or behind a pipe, in a forked process; and what a person sees there."""

import os
import re
import select
import sys
import time
from pathlib import Path

from shear_lit import cli

_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def at_terminal(terminal: str, arguments: list[str]) -> int:
    """Run a command whose terminal is ``terminal``; give its exit code."""
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)  # the first one that a session opens is its own
    for stream in (0, 1, 2):
        os.dup2(descriptor, stream)
    os.environ["TERM"] = "dumb"
    return _run(arguments)


def behind_pipe(file: str, arguments: list[str]) -> int:
    """Run a command into which ``file`` is piped."""
    os.dup2(os.open(file, os.O_RDONLY), 0)
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    # That of a forked process is another one.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    try:
        cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


class Terminal:
    """The side of a pseudo-terminal at which a person sits."""

    def __init__(self) -> None:
        self._own, self._theirs = os.openpty()
        self.name = os.ttyname(self._theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        """Type something; ``\\x03`` is Ctrl-C."""
        os.write(self._own, text.encode())

    def wait_for(self, pattern: str, *, seconds: float = 60) -> re.Match[str]:
        """What matches of all that was seen since the last match, once it does."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.seen, re.DOTALL)) is None:
            assert time.monotonic() < end, f"{pattern!r} was not seen in {self.seen[-2000:]!r}"
            if select.select([self._own], [], [], 0.05)[0]:
                self.seen += _SEQUENCES.sub("", os.read(self._own, 65536).decode("utf-8", "replace"))
        self.seen = self.seen[found.end() :]
        return found

    def close(self) -> None:
        """Hang up."""
        os.close(self._own)
        os.close(self._theirs)


def printed(log: Path) -> list[str]:
    """The lines that a forked process has printed."""
    return log.read_text().splitlines()
