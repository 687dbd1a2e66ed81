"""Who does the tasks of ``prepare``: this process, or several; the output is the same."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Protocol, TypeVar

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.settings import CommonSettings

Task = TypeVar("Task")
Result = TypeVar("Result")

ONE_THREAD = {
    **dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "true",  # by that one thread, which is a sixth faster than by the one that asks it
}
"""The environment of a process that is one of several on its machine."""

_AHEAD = 2  # tasks that wait for each process, which hold their text


class Executor(Protocol):
    """Does tasks, in any order and anywhere: a task says all that it needs, and is the same when it is done again."""

    def run(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, as they are done; ``do`` and the tasks can be pickled.

        Raises:
            DataError: a process ended by itself.
            Exception: what a task raises.
        """
        ...


class Here:
    """Does tasks in this process, one after the other."""

    def run(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """As in ``Executor``."""
        for task in tasks:
            yield task, do(task)


class Processes:
    """Does tasks in processes of this machine, each the next one that is left.

    They import the script that was started: one that prepares data does so under ``if __name__ == "__main__":``.
    """

    def __init__(self, workers: int) -> None:
        """Use ``workers`` processes."""
        self._workers = workers

    def run(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """As in ``Executor``. What is not begun is not done when it is left early."""
        left = iter(tasks)
        pool = ProcessPoolExecutor(self._workers, multiprocessing.get_context("spawn"), initializer=_begin)
        waiting: dict[Future[Result], Task] = {}
        try:
            while True:
                for task in islice(left, _AHEAD * self._workers - len(waiting)):
                    waiting[pool.submit(do, task)] = task
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{self._workers}: a worker process ended by itself, as it does on a machine without free memory. "
                "Lower workers, and run the same command again: it continues.",
                key="workers",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def executor_of(settings: CommonSettings, size: int) -> Executor:
    """Who does the tasks of a run on ``size`` bytes, as its settings say; a piece of work needs no other process.

    Raises:
        DataError: a package for it is not installed.
    """
    if settings.executor == "ray":
        from shear_lit.data.preparing.ray_executor import RayCluster

        return RayCluster(settings.workers)
    return Here() if settings.workers == 1 or size <= settings.unit_bytes else Processes(settings.workers)


def _begin() -> None:
    """In each process: one thread for each, no Ctrl-C, which the starting process answers, and an end with that one."""
    os.environ |= ONE_THREAD
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
