"""Chunks of remote data are fetched before they are read, by the first process of each node for all of it."""

import logging
import math
import threading
import time
from collections import deque
from typing import NamedTuple, Self

from shear_lit.data.errors import DataError
from shear_lit.data.order.ahead import ChunksAhead
from shear_lit.data.order.schedule import MixtureSchedule, ScheduleState
from shear_lit.data.prepared.manifest import FileRecord
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.storage.attempts import is_final, said, wait_before

THREADS = 4
"""So many files are fetched at a time."""

_TOUCHED_EVERY_SECONDS = 1.0
"""A hundred files may be kept, and a node may read hundreds of global batches in a second."""

_log = logging.getLogger(__name__)


class _Wanted(NamedTuple):
    folder: str
    file: FileRecord


class Prefetch:
    """Threads that fetch what the order comes to, soonest first: what is left of each present window, and the next.

    Each file is asked for once at a time, and again after a wait. An error that stays is no error here: whoever reads
    the file meets it, and says it. No chunk of these windows is removed from the cache for another.
    """

    def __init__(
        self, store: SequenceStore, schedule: MixtureSchedule, *, steps: int, documents_apart: bool
    ) -> None:
        """Take what is read, in a run of so many global batches; nothing is fetched before ``look``."""
        self._store, self._apart = store, documents_apart
        self._ahead = ChunksAhead(store.chunk_sizes, schedule, steps=steps)
        self._seen: tuple[int, ...] = ()
        self._touched = -math.inf
        self._files: list[_Wanted] = []
        self._wanted, self._kept = deque[_Wanted](), frozenset[str]()
        self._changed, self._closed = threading.Condition(), threading.Event()
        self._threads: list[threading.Thread] = []

    def look(self, state: ScheduleState) -> None:
        """Say where the order stands, before each global batch; returns at once."""
        is_new = (windows := self._ahead.windows(state)) != self._seen
        if is_new:
            self._seen = windows
            self._files = [
                _Wanted(folder, file)
                for domain, chunk in self._ahead.chunks(state)
                for folder, file in self._store.files(domain, chunk, documents_apart=self._apart)
            ]
        if is_new or time.monotonic() > self._touched + _TOUCHED_EVERY_SECONDS:
            # Every process of the node makes room by when chunks were read: those that will be count as read now.
            missing = [wanted for wanted in self._files if not self._store.chunks.touch(*wanted)]
            self._touched = time.monotonic()
            if is_new:
                self._fetch_these(missing)

    def _fetch_these(self, missing: list[_Wanted]) -> None:
        with self._changed:
            self._kept = frozenset(wanted.file.sha256 for wanted in self._files)
            self._wanted = deque(missing)
            self._changed.notify_all()
        if missing and not self._threads:
            # After the workers of a DataLoader were forked, which would wait forever for what a thread holds.
            self._threads = [
                threading.Thread(target=self._fetch, daemon=True, name=f"prefetch-{number}")
                for number in range(THREADS)
            ]
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """Fetch nothing more; what is under way is not waited for."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> tuple[_Wanted, frozenset[str]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed.is_set())
            return None if self._closed.is_set() else (self._wanted.popleft(), self._kept)

    def _fetch(self) -> None:
        failed = 0
        while (found := self._next()) is not None:
            wanted, kept = found
            try:
                self._store.chunks.bring(*wanted, kept=lambda: self._kept)
                failed = 0
            except Exception as error:
                failed += 1
                _log.debug("%s/%s was not fetched ahead (%s)", wanted.folder, wanted.file.file, said(error))
                if _comes_back(error):
                    with self._changed:
                        if kept is self._kept:
                            self._wanted.appendleft(wanted)
                    self._closed.wait(wait_before(failed))


def _comes_back(error: Exception) -> bool:
    """Whether asking again may help: it does not for want of room, for damage, or for what is not there."""
    cause = error.__cause__
    return isinstance(cause, Exception) and not isinstance(cause, DataError) and not is_final(cause)
