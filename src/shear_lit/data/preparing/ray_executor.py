"""Ray as the executor of ``prepare``: its tasks are done wherever the cluster has a free core."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.executors import ONE_THREAD, Result, Task

_AHEAD = 2  # tasks that wait for each core, which hold their text


class RayCluster:
    """Does tasks on the cluster that ``RAY_ADDRESS`` names, or on one on this machine that ends with this process.

    All of its machines share the storage of the output, and have this package.
    """

    def __init__(self, workers: int) -> None:
        """Use ``workers`` processes where a cluster is begun.

        Raises:
            DataError: Ray is not installed.
        """
        if importlib.util.find_spec("ray") is None:
            raise DataError(
                "'ray': the package 'ray' is not installed. Install it with `pip install 'shear-lit[ray]'`, or use "
                "processes.",
                key="executor",
            )
        self._workers = workers

    def run(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """As in ``Executor``; a task whose process ends by itself is done again by another, three times at most."""
        import ray

        if not ray.is_initialized():
            _begin(ray, self._workers)
        yield from _run(ray, do, iter(tasks))


def _begin(ray: Any, workers: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of the run
    here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    ray.init(log_to_driver=False, runtime_env={"env_vars": ONE_THREAD}, **here)


def _run(ray: Any, do: Callable[[Task], Result], left: Iterator[Task]) -> Iterator[tuple[Task, Result]]:
    remote, shared = ray.remote(_done), ray.put(do)
    most = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: dict[Any, Task] = {}
    try:
        while True:
            for task in islice(left, most - len(waiting)):
                waiting[remote.remote(shared, task)] = task
            if not waiting:
                return
            done, _ = ray.wait(list(waiting))
            for reference in done:
                yield waiting.pop(reference), ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.WorkerCrashedError as error:
        raise DataError(
            "'ray': a worker process ended by itself several times, as it does on a machine without free memory. Give "
            "each task more of it, and run the same command again: it continues.",
            key="executor",
        ) from error
    finally:
        for reference in waiting:
            ray.cancel(reference)


def _done(do: Callable[[Any], Any], task: Any) -> Any:
    return do(task)
