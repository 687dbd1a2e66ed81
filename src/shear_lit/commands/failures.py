"""The one place that turns what went wrong into a line for a person and an exit code."""

import errno
import os
import tempfile
import traceback
from collections.abc import Iterator
from typing import NamedTuple

from shear_lit.commands.table import Command
from shear_lit.mistakes import Mistake

INTERRUPTED = 130
"""What a shell expects of a process that Ctrl-C ended."""
DEBUG = "SHEAR_DEBUG"
"""The environment variable that shows tracebacks."""

_MISCONFIGURED = "MisconfigurationException"  # Lightning's, by name: nothing of it may be imported here
_OF_THE_MACHINE = {
    errno.ENOSPC: "the disk is full. Free some space",
    errno.EDQUOT: "this user's share of the disk is full. Free some space",
    errno.EROFS: "the disk can only be read. Choose another place",
    errno.EACCES: "this user may not do that. Change its permissions, or choose another place",
    errno.EPERM: "this user may not do that. Change its permissions, or choose another place",
    errno.EMFILE: "too many files are open. Raise the limit (`ulimit -n`)",
    errno.ENAMETOOLONG: "the name is too long for this disk. Choose a shorter one",
    errno.EIO: "the disk could not read or write it. Look at the disk",
}
"""What a failed call of the operating system means for a person, and the way out."""


class UsageError(Mistake):
    """Something on the command line or in a config file that no command takes."""


class Failure(NamedTuple):
    """How a command ends."""

    code: int
    """The exit code: 2 where the user has to change something, 1 where a run has failed."""
    line: str
    """What is said; empty where nothing is."""


def failure_of(error: BaseException, name: str, command: Command | None) -> Failure:
    """How the command ``name`` ends after ``error``; what nobody foresaw leaves its traceback in a file."""
    if isinstance(error, KeyboardInterrupt):
        return Failure(INTERRUPTED, f"error: {name}: interrupted. What was written before is whole.")
    if isinstance(error, BrokenPipeError):
        return Failure(0, "")
    mistake = next((found for link in chain(error) if (found := _mistake(link)) is not None), None)
    if mistake is not None:
        return Failure(mistake.exit_code, f"error: {said(mistake, command)}")
    for link in chain(error):
        if (what := _of_the_machine(link)) is not None:
            return Failure(1, f"error: {name}: {what}")
        if type(link).__name__ == _MISCONFIGURED:
            return Failure(2, f"error: {name}: trainer: {one_line(link)}")
    return Failure(1, _unforeseen(error, name))


def said(mistake: Mistake, command: Command | None) -> str:
    """The message of a mistake in the words of the command that was typed, on one line."""
    message = _without_worker(mistake)
    if mistake.key is not None and command is not None:
        message = message.replace(mistake.key, command.word(mistake.key), 1)
    return " ".join(message.split())


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, outermost first; each once, for one that is raised again may come from itself."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def one_line(error: BaseException) -> str:
    """What an error of a library says, on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _mistake(error: BaseException) -> Mistake | None:
    """The mistake that an error is, or that one says which torch raises for a process that has ended by it."""
    if isinstance(error, Mistake):
        return error
    if type(error).__name__ != "ProcessRaisedException":
        return None
    *_, last = str(error).strip().splitlines()
    kind, _, message = last.partition(": ")
    return next(
        (known(message) for known in _kinds() if f"{known.__module__}.{known.__qualname__}" == kind), None
    )


def _kinds(kind: type[Mistake] = Mistake) -> Iterator[type[Mistake]]:
    """All kinds of mistakes that have been imported."""
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def _without_worker(error: Mistake) -> str:
    """The message of an error that a worker process may have raised: torch puts the worker's traceback before it."""
    message = str(error)
    if not str(error.args[0]).startswith("Caught "):
        return message
    return message.rpartition(f"{type(error).__name__}: ")[2].strip()


def _of_the_machine(error: BaseException) -> str | None:
    """What a full disk, a missing permission or too little memory means; None for anything else."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        where = "the accelerator's memory" if type(error).__name__ == "OutOfMemoryError" else "memory"
        return f"{where} is full. Use a smaller micro_batch, or a model that fits."
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        where = f"{error.filename!r}: " if error.filename else ""
        return f"{where}{error.strerror}: {_OF_THE_MACHINE[error.errno]}."
    return None


def _unforeseen(error: BaseException, name: str) -> str:
    descriptor, path = tempfile.mkstemp(prefix="shear-lit-traceback-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(traceback.format_exception(error))
    return (
        f"error: {name}: {type(error).__name__}: {one_line(error)} Nobody foresaw this: it is a fault of shear_lit, "
        f"not yours. Please report it with {path}, which has the traceback."
    )
