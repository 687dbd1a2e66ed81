"""What memory a call takes at its height, measured in a process of its own."""

import multiprocessing
import os
import resource
import warnings
from collections.abc import Callable
from typing import Any


def _measure(answer: Any, call: Callable[[Any], Any], argument: Any) -> None:
    before = _peak()
    try:
        message = str(call(argument))
    except Exception as error:
        message = str(error)
    answer.send((message, _peak() - before))
    answer.close()
    os._exit(0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_bytes(call: Callable[[Any], Any], argument: Any) -> tuple[str, int]:
    """What ``call(argument)`` says or raises, and by how many bytes it lifts the highest memory of a fork."""
    receives, answers = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():  # of threads that a fork does not have
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=_measure, args=(answers, call, argument))
        process.start()
    answers.close()
    try:
        return receives.recv()
    finally:
        process.join(60)
        process.kill()
