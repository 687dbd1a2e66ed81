"""Answer jobs with a client: run by path in the client's own interpreter, where this package is not installed.

    PYTHON -P answering.py CLIENT.py JOBS.jsonl ANSWERS.jsonl --seconds N
    PYTHON -P answering.py --installed CLIENT.py [CLIENT.py ...]

A client's file has ``PACKAGE``, ``prepare()`` (its imports), ``answer(job)`` and, where it needs more than the package,
``lacking()``. Every job runs in a child that is forked after the imports: clients keep global state, import slowly,
and abort. Each answer is written as its job ends.

A job, one JSON a line: ``directory``, ``tokens`` (rows of ids), ``greedy_from`` (ids, or null) with ``new_tokens``,
``text`` (or null), ``ends`` (ids), and ``logits``, the .npy file to write; the client is told ``log``, too, where what
it prints goes.
Its answer: ``directory``, ``version`` and ``seconds``; ``kind`` (logits or log_probabilities) of what is in the file
``logits``, one line for every position of every row in turn, or for those in ``positions``; ``greedy`` and ``ids``;
``stops``, those of ``ends`` behind which generation stops as the directory's own settings say; ``notes``; or else one
line of ``error``.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

Job = dict[str, Any]
Answer = dict[str, Any]

_LONGEST_ERROR = 300
_TELLING = re.compile(r"error|assert|abort|exception|fail|terminate", re.IGNORECASE)
_SECONDS_TO_LEAVE = 5


class Client(Protocol):
    """What a client's file defines."""

    PACKAGE: str
    prepare: Callable[[], None]
    answer: Callable[[Job], Answer]


def installed_version(name: str) -> str | None:
    """The version of the distribution that brings the package ``name``, if this interpreter has it."""
    try:
        if importlib.util.find_spec(name) is None:
            return None
    except ModuleNotFoundError:  # not even the package that it is in
        return None
    distributions = importlib.metadata.packages_distributions().get(name.partition(".")[0], [name])
    try:
        return importlib.metadata.version(distributions[0])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def installation(path: str) -> dict[str, str | None]:
    """The version of a client that this interpreter has (null: none), and what it lacks besides."""
    try:
        client = read_client(path)
        version = installed_version(client.PACKAGE)
    except ImportError:  # a client without numpy is none
        return {"version": None, "lacks": None}
    lacking = getattr(client, "lacking", lambda: None)
    return {"version": version, "lacks": lacking() if version else None}


def read_client(path: str) -> Client:
    """The client that a file defines; nothing of it is imported yet."""
    spec = importlib.util.spec_from_file_location("client", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    client: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    return client


def answers_of(client: Client, jobs: list[Job], log: Path, seconds: float) -> Iterator[Answer]:
    """One answer for every job, whatever happens to the client."""
    version = installed_version(client.PACKAGE)
    try:
        client.prepare()
    except Exception as error:
        failure = _one_line(error)
        yield from ({"directory": job["directory"], "version": version, "error": failure} for job in jobs)
        return
    gc.freeze()  # what was imported is no child's garbage, and looking through it takes seconds
    for job in jobs:
        begun = time.perf_counter()
        answer = _answered(client, job, log, seconds)
        yield {
            "directory": job["directory"],
            "version": version,
            "seconds": round(time.perf_counter() - begun, 2),
            **answer,
        }


def _answered(client: Client, job: Job, log: Path, seconds: float) -> Answer:
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(client, job, log, sending))
    child.start()
    sending.close()
    try:
        if not receiving.poll(seconds):
            child.kill()
            return {"error": f"no answer within {seconds:g} seconds"}
        answer: Answer = json.loads(receiving.recv_bytes())
        return answer
    except (EOFError, ValueError):
        child.join(_SECONDS_TO_LEAVE)
        return {"error": f"{_end(child.exitcode)}: {_last_words(log)}"}
    finally:
        receiving.close()
        child.join(_SECONDS_TO_LEAVE)
        if child.is_alive():  # it has answered, and hangs at its end
            child.kill()
            child.join()


def _in_child(client: Client, job: Job, log: Path, sending: Connection) -> None:
    """Answer one job; what the client prints goes to the log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        answer = client.answer({**job, "log": str(log)})
    except SystemExit as end:
        answer = {"error": f"{_end(1 if end.code is None else end.code)}: {_last_words(log)}"}
    except BaseException as error:
        answer = {"error": _one_line(error)}
    sending.send_bytes(json.dumps(answer).encode())


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_ERROR]


def _end(code: object) -> str:
    if isinstance(code, int) and code < 0:
        return f"the client was ended by {signal.Signals(-code).name}"
    return f"the client left with exit code {code}"


def _last_words(log: Path) -> str:
    """The last line of a log that tells of an error, or else its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)] or lines or ["it printed nothing"]
    return " ".join(telling[-1].split())[:_LONGEST_ERROR]


def main() -> None:
    """Answer every job of a file, or say what is installed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="CLIENT.py JOBS ANSWERS")
    parser.add_argument("--seconds", type=float, default=300.0, help="the longest that one job may take")
    parser.add_argument("--installed", nargs="+", metavar="CLIENT.py", help="clients to tell the versions of")
    options = parser.parse_args()
    if options.installed:
        os.write(1, json.dumps({path: installation(path) for path in options.installed}).encode())
        return
    client, jobs, answers = options.files
    lines = Path(jobs).read_text(encoding="utf-8").splitlines()
    with Path(answers).open("a", encoding="utf-8") as file:
        for answer in answers_of(
            read_client(client), [json.loads(line) for line in lines], Path(f"{answers}.log"), options.seconds
        ):
            file.write(json.dumps(answer) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
