"""The demo's steps: numbered, announced and timed."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class Steps:
    """Counts the steps of a known number of them, and keeps how long each took."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seconds: dict[str, float] = {}
        """Wall time of every finished step, by what it does."""

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Say what comes next, and how long it took."""
        logger.info("[%d/%d] %s …", len(self.seconds) + 1, self.count, what)
        start = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - start
        logger.info("[%d/%d] took %.0f s", len(self.seconds), self.count, self.seconds[what])
