"""The worker processes of ``prepare``, seen from the process that starts them."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import shear_lit
from shear_lit.data.errors import DataError
from shear_lit.data.preparing.worker import Answer, answer
from shear_lit.data.text.units import Unit
from shear_lit.data.tokens.encoding import Tokenising, UnitTokenizer
from shear_lit.data.tokens.spool import SpoolRecord

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors that say that a disk has no space left."""

Done = Callable[[Unit, SpoolRecord], None]
"""Called with each piece of work and the record of its spool file; by one thread at a time."""


def tokenise_here(units: Iterator[Unit], settings: Tokenising, done: Done) -> None:
    """Do all ``units`` in this process.

    Raises:
        DataError: an input cannot be read, or the disk is full.
    """
    tokenizer = UnitTokenizer(settings)
    for unit in units:
        done(unit, _record(answer(tokenizer, _request(unit), unit.block), unit))


def tokenise_in_processes(units: Iterator[Unit], settings: Tokenising, done: Done, *, workers: int) -> None:
    """Do all ``units`` in ``workers`` processes, each the next one that is left.

    Raises:
        DataError: an input cannot be read, the disk is full, or a process died.
    """
    lock, stop = threading.Lock(), threading.Event()

    def next_unit() -> Unit | None:
        with lock:
            return None if stop.is_set() else next(units, None)

    def work(process: subprocess.Popen[bytes]) -> None:
        try:
            with suppress(BrokenPipeError):  # it has ended: the first question finds out
                _ask(process, json.dumps(asdict(settings)).encode())
            while unit := next_unit():
                found = _asked(process, unit, workers)
                with lock:
                    done(unit, _record(found, unit))
        except BaseException:
            stop.set()
            raise

    processes = [_started() for _ in range(workers)]
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as threads:
            futures = [threads.submit(work, process) for process in processes]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                stop.set()
                _end(processes)
                raise
            if any(future.exception() for future in finished):
                _end(processes)
            errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise next((e for e in errors if not isinstance(e, _Died)), errors[0])
    finally:
        _end(processes)


class _Died(DataError):
    pass


def _started() -> subprocess.Popen[bytes]:
    package = str(Path(shear_lit.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    one_thread = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen(
        # -P: without the current directory, where a file may be called like a library.
        [sys.executable, "-P", "-m", "shear_lit.data.preparing.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            **one_thread,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(paths),
        },
    )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _request(unit: Unit) -> dict[str, Any]:
    return {"task": unit.task, "spool": str(unit.spool), "block": len(unit.block)}


def _ask(process: subprocess.Popen[bytes], *lines: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()


def _asked(process: subprocess.Popen[bytes], unit: Unit, workers: int) -> Answer:
    assert process.stdin is not None and process.stdout is not None
    try:
        _ask(process, json.dumps(_request(unit)).encode())
        process.stdin.write(unit.block)
        process.stdin.flush()
        line = process.stdout.readline()
    except (BrokenPipeError, ValueError):  # the second: its pipes were closed
        line = b""
    if line:
        return json.loads(line)
    raise _Died(
        f"{workers}: a worker process ended by itself (exit code {process.wait()}) at {unit.name!r}; -9 is "
        "what a machine without free memory does. Lower workers, and run the same command again: it continues.",
        key="workers",
    )


def _record(found: Answer, unit: Unit) -> SpoolRecord:
    if "record" in found:
        return SpoolRecord(**found["record"])
    if "data" in found:
        raise DataError(found["data"], key=found["key"])
    if "disk" in found:
        raise disk_error(unit.spool.parent, OSError(found["disk"], found["message"]))
    raise RuntimeError(f"a worker process failed:\n{found['crash']}")


def disk_error(place: Path, error: OSError) -> DataError:
    """What to say of a disk that cannot be written."""
    what = "its disk is full" if error.errno in FULL else f"it cannot be written ({error.strerror or error})"
    return DataError(
        f"{str(place)!r}: {what}. Make space, or repair the disk, and run the same command again: it "
        "continues where it stopped, nothing that was finished is done twice.",
        key="output",
    )
