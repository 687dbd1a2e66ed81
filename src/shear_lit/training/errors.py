"""What can be wrong with a run as a whole, and with a checkpoint of one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed import DistError
from torch.distributed.checkpoint.api import CheckpointException

from shear_lit.mistakes import Mistake
from shear_lit.training.pickles import UnpicklingError

_LONGEST = 300
"""Characters of a library's message that are shown."""


class RunError(Mistake):
    """A run whose settings are impossible, or whose parts do not fit together."""


class CheckpointError(Mistake):
    """A checkpoint that cannot be read as one of this package's."""


def damaged(path: Path, what: str) -> CheckpointError:
    """The error that says what is wrong with the content of the checkpoint at ``path``."""
    return CheckpointError(
        f"{str(path)!r} cannot be used: {what}. It is damaged, half-copied, or not of this package. "
        f"Copy it again, or use another checkpoint of the run.",
        key="checkpoint",
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever torch raises at a checkpoint that it cannot read has one meaning for the user.

    Raises:
        CheckpointError: the block raised something other than a mistake, and not because processes lost each other.
    """
    try:
        yield
    except (Mistake, DistError):
        raise
    except CheckpointException as error:  # no Exception: it collects those of all ranks
        causes = [cause for cause, _ in error.failures.values()]
        raise damaged(path, _said(causes[0])) from error
    except Exception as error:  # torch raises RuntimeError, OSError, EOFError, UnpicklingError, KeyError, ...
        raise damaged(path, _said(error)) from error


def _said(error: BaseException) -> str:
    """An error in a line; torch's page about pickles ends in advice to run them."""
    message = " ".join(str(error).split())
    if isinstance(error, UnpicklingError) and message.startswith("Weights only load failed"):
        named = re.search(r"GLOBAL (\S+)", message)
        what = "more than numbers and plain values"
        return f"it holds {what}, which is not read" + (f" ({named[1]})" if named else "")
    shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
    shown = shown.rstrip(".")
    # What this package says of a record needs no name of a class before it.
    return shown if type(error).__module__.startswith("shear_lit.") else f"{type(error).__name__}: {shown}"
