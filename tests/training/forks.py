"""Runs in processes of their own, which a test may kill: imported once, then forked for each run.

The parent of the forks is a server that has never computed a gradient: a process that has cannot be forked any more.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PRELOADED = ["tests.training.runs", "tests.bad_inputs.ending", "tests.bad_inputs.hostile"]


class ForkError(AssertionError):
    """A run that failed, with what it printed."""


def _work(
    function: Callable[..., Any], rank: int, processes: int, port: int, folder: str, options: dict
) -> None:
    log = (Path(folder) / f"{rank}.log").open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    # Without OMP_NUM_THREADS, Lightning chooses a number of threads for the processes that it starts.
    os.environ.update(TOKENIZERS_PARALLELISM="false", GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    if processes > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            WORLD_SIZE=str(processes),
            LOCAL_RANK=str(rank),
            NODE_RANK="0",
        )
    torch.set_num_threads(1)
    # As at a terminal: where tests run in the background, a shell has told them to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    try:
        result = function(**options)
        torch.save(result, Path(folder) / f"{rank}.partial")
        (Path(folder) / f"{rank}.partial").rename(Path(folder) / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        code = 1
    log.flush()
    os._exit(code)


@dataclass
class Forked:
    """A run that goes on."""

    folder: Path
    workers: list[Any]

    def kill(self) -> None:
        """End it as a power cut does."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()

    def wait(self, timeout: float = 120) -> list[Any]:
        """The results by rank."""
        end = time.monotonic() + timeout
        while any(worker.exitcode is None for worker in self.workers) and time.monotonic() < end:
            if any(worker.exitcode not in (0, None) for worker in self.workers):
                time.sleep(1)  # the others may have something to say
                break
            time.sleep(0.01)
        late = any(worker.exitcode is None for worker in self.workers)
        self.kill()
        files = [self.folder / f"{rank}.pt" for rank in range(len(self.workers))]
        if not all(file.exists() for file in files):
            raise ForkError(f"{'timeout; ' if late else ''}{self.output()}")
        return [torch.load(file, weights_only=False) for file in files]

    def output(self) -> str:
        """What it printed."""
        logs = [self.folder / f"{rank}.log" for rank in range(len(self.workers))]
        return "\n".join(
            f"--- rank {rank}\n{log.read_text()}" for rank, log in enumerate(logs) if log.exists()
        )

    def until(self, there: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until something has happened while the run goes on."""
        end = time.monotonic() + timeout
        while not there():
            if time.monotonic() > end or any(worker.exitcode is not None for worker in self.workers):
                self.kill()
                raise ForkError(self.output())
            time.sleep(0.002)


@functools.cache
def _server() -> Any:
    """The parent of the forks, which has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # Python 3.11 forgets it
    from multiprocessing.forkserver import ensure_running

    offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when it is imported; a hub that is asked in vain costs a minute
    ensure_running()
    if offline is None:
        del os.environ["HF_HUB_OFFLINE"]
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def start(function: Callable[..., Any], folder: Path, *, processes: int = 1, **options: Any) -> Forked:
    """Begin ``function(**options)`` in ``processes`` processes; ``folder`` is for their output."""
    context = _server()
    folder.mkdir(parents=True)
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [
        context.Process(target=_work, args=(function, rank, processes, port, str(folder), options))
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    return Forked(folder, workers)


def run(
    function: Callable[..., Any], folder: Path, *, processes: int = 1, timeout: float = 120, **options: Any
) -> list[Any]:
    """The results of ``function(**options)`` by rank."""
    return start(function, folder, processes=processes, **options).wait(timeout)
