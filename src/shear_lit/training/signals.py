"""SIGTERM, SIGINT and SIGUSR1 ask a run to stop: they are remembered, and ``boundary`` stops where nothing is lost."""

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A scheduler's request, Ctrl-C, and what SLURM sends before a job's time is over."""
AT_ONCE_AFTER_SECONDS = 5.0
"""From then on a second signal of the same kind ends the process at once; launchers send the first one twice."""


class StopSignals:
    """What this process was told."""

    def __init__(self) -> None:
        self.received: int = 0
        """The number of the first signal; 0 if there was none."""
        self._first_at: dict[int, float] = {}

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Remember signals while the block lasts, instead of ending by them.

        A process that was told goes on so until it ends: a launcher tells all others when the first of them has left.
        """
        if threading.current_thread() is not threading.main_thread():  # which alone may have handlers
            yield
            return
        self.received, self._first_at = 0, {}
        before = {number: signal.signal(number, self._remember) for number in STOPPING}
        try:
            yield
        finally:
            if self.received:
                # Python gives its handlers up before all that it holds is gone.
                atexit.register(_hear_no_more)
            else:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        first = self._first_at.setdefault(number, now)
        if now - first >= AT_ONCE_AFTER_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = self.received or number


def _hear_no_more() -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


SIGNALS = StopSignals()
"""Those of this process: a process has one handler for each."""


def exit_code(number: int) -> int:
    """What a shell expects of a process that a signal has ended."""
    return 128 + number
