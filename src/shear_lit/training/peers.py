"""The processes of a run watch each other: when one fails or hangs, all end, and say which and where.

Without this, the others wait in a reduction until its time is over (half an hour by default), and say that they waited.
A thread of each process asks the store through which the processes found each other, once a second.
"""

import math
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

_EVERY_SECONDS = 1.0
_GRACE_SECONDS = 3.0
"""What the main thread has to end by itself, with a message of its own."""
_PATIENCE_WITH_STORE = timedelta(seconds=5)


class Peers:
    """This process among those of a run."""

    def __init__(self, rank: int, world_size: int, *, timeout: timedelta) -> None:
        """Join the others, which a process group has brought together; alone, there is nobody to watch.

        Args:
            rank: Number of this process.
            world_size: Processes of the run.
            timeout: From then on a process that gets no further counts as hung: that of the process group.
        """
        self._rank, self._ranks = rank, range(world_size)
        # A little before the process group's own, whose message says that it waited, and not for whom.
        self._timeout = max(timeout.total_seconds() / 2, timeout.total_seconds() - 3 * _EVERY_SECONDS)
        self._step, self._moved_at = 0, math.inf  # until the first step
        self._left = threading.Event()
        self._heard = ""
        self._store: dist.Store | None = None
        if world_size > 1:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # A connection of its own: that of the process group is held by whoever waits on it.
            store = dist.TCPStore(host, port, is_master=False, timeout=_PATIENCE_WITH_STORE)
            self._store = dist.PrefixStore("shear_lit/peers", store)
            self._store.set(f"step/{rank}", "0")
            threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def at(self, step: int) -> None:
        """Note that this process gets on, and at which optimizer step it is."""
        self._step, self._moved_at = step, time.monotonic()

    def rest(self) -> None:
        """Expect nothing until ``at``: to read and to write takes as long as it takes."""
        self._moved_at = math.inf

    def leave(self) -> None:
        """Watch no longer: the run is over."""
        self._left.set()

    def fail(self, message: str, *, child: bool) -> None:
        """Tell the others that this process ends; wait until they know.

        A ``child`` that Lightning started waits until the first process is gone, which Lightning would kill otherwise.
        """
        self.leave()
        if self._store is None:
            return
        if self._heard:  # what ends this one is that the other is gone
            self._say_and_exit(self._heard)
        with suppress(RuntimeError):  # the first process, which keeps the store, is gone: the others see that
            if not self._store.check(["failed"]):
                self._store.set("failed", f"{self._rank}\n{message} ({self.where()})")
            end = time.monotonic() + _GRACE_SECONDS + 2 * _EVERY_SECONDS
            while time.monotonic() < end and (child or not self._all_know()):
                time.sleep(_EVERY_SECONDS / 5)
                self._store.check(["failed"])

    def where(self) -> str:
        """At which step each process is, as far as the others have heard."""
        assert self._store is not None
        known = [rank for rank in self._ranks if self._store.check([f"step/{rank}"])]
        steps = {rank: self._store.get(f"step/{rank}").decode() for rank in known}
        return ", ".join(f"rank {rank} at step {step}" for rank, step in steps.items())

    def _all_know(self) -> bool:
        assert self._store is not None
        others = [f"knows/{rank}" for rank in self._ranks if rank != self._rank]
        return bool(self._store.check(others))

    def _watch(self) -> None:
        assert self._store is not None
        told = -1
        while not self._left.wait(_EVERY_SECONDS):
            try:
                if told != self._step:
                    told = self._step
                    self._store.set(f"step/{self._rank}", str(told))
                if self._store.check(["failed"]):
                    self._store.set(f"knows/{self._rank}", "")
                    rank, _, message = self._store.get("failed").decode().partition("\n")
                    if int(rank) != self._rank:
                        self._heard = f"rank {rank} has failed: {message}"
                        self._end(self._heard)
                elif time.monotonic() - self._moved_at > self._timeout:
                    message = f"this process did not get on for {self._timeout:.0f} s: {self.where()}."
                    self._store.set("failed", f"{self._rank}\n{message}")
                    self._heard = message
                    self._end(message)
            except RuntimeError:  # torch's DistNetworkError and its like
                self._end("the first process is gone.")

    def _end(self, message: str) -> None:
        """End this process, unless it does so by itself: its main thread may wait for the others for ever."""
        if not self._left.wait(_GRACE_SECONDS):
            self._say_and_exit(message)

    def _say_and_exit(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: fit: {message} Rank {self._rank} ends with it.\n")
        sys.stderr.flush()
        os._exit(1)
