"""A disk that refuses one file operation of one process of a run: the n-th one that writes in the run's directory."""

import builtins
import errno
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.training.runs import fit

REFUSALS = (errno.ENOSPC, errno.EACCES)


class BadDisk:
    """Counts what this process does in a directory, and refuses one of it: the n-th of a name."""

    def __init__(self, directory: str, refused: tuple[str, int] | None) -> None:
        self.directory, self.refused, self.operations = Path(directory), refused, list[str]()

    def meets(self, what: str, path: Any) -> None:
        """Count an operation on ``path``, and refuse it if it is its turn."""
        if isinstance(path, int) or not Path(os.fsdecode(path)).is_relative_to(self.directory):
            return
        # Names of events and of temporary files are other ones each time.
        name = re.sub(r"tfevents.*|tmp\w+", "*", str(Path(os.fsdecode(path)).relative_to(self.directory)))
        operation = f"{what} {name}"
        before = self.operations.count(operation)
        self.operations.append(operation)
        if self.refused == (operation, before):
            number = REFUSALS[len(self.operations) % len(REFUSALS)]
            raise OSError(number, os.strerror(number), os.fsdecode(path))

    def install(self) -> None:
        """Stand between the process and the disk."""

        def opened(own: Callable[..., Any]) -> Callable[..., Any]:
            def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
                if any(letter in mode for letter in "wax+"):
                    self.meets("open", file)
                return own(file, mode, *args, **options)

            return open_

        def called(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *args: Any, **options: Any) -> Any:
                self.meets(name, path)
                return own(path, *args, **options)

            return call

        builtins.open = io.open = opened(io.open)  # type: ignore[assignment]
        for name in ("mkdir", "rename", "replace"):
            setattr(os, name, called(name, getattr(os, name)))
        disk, writer = self, torch._C.PyTorchFileWriter

        class Writer(writer):  # type: ignore[misc, valid-type]
            def __init__(self, name: Any, *args: Any, **options: Any) -> None:
                if isinstance(name, str):
                    disk.meets("write", name)
                super().__init__(name, *args, **options)

        torch._C.PyTorchFileWriter = Writer  # type: ignore[misc]


def fit_on_a_bad_disk(
    arguments: list[str], directory: str, rank: int, at: tuple[str, int] | None
) -> dict[str, Any]:
    """A run of which the process ``rank`` meets a disk that refuses the operation ``at``, if one."""
    if int(os.environ.get("LOCAL_RANK", "0")) != rank:
        return fit(arguments)
    disk = BadDisk(directory, at)
    seen = fit(arguments, sabotage=disk.install)
    return {**seen, "operations": disk.operations}
