"""How far work is: a bar where a person watches, elsewhere a line now and then, and nothing where quiet was asked for.

It goes to stderr; results go to stdout. A line that is logged while a bar is there stands above it.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

QUIET = "SHEAR_LIT_QUIET"
"""The environment variable of `--quiet`, which processes that a command starts then know of, too."""
FIRST_SECONDS, NEXT_SECONDS = 20.0, 60.0
"""Work that is shorter says nothing off a terminal; then it says how far it is, as often."""
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")


def is_quiet() -> bool:
    """Whether only warnings, errors and results are wanted."""
    return os.environ.get(QUIET, "") not in ("", "0")


def is_first() -> bool:
    """Whether this process speaks for those that were started with it."""
    return all(os.environ.get(rank, "0") == "0" for rank in _RANKS)


class Progress:
    """The progress of one piece of work."""

    def __init__(self, what: str, total: int | None, unit: str, *, bytes_of: bool = False) -> None:
        """Begin; ``total`` units of work are to be done, None where that is not known.

        ``bytes_of``: units are bytes, which are said in kilobytes and so on.
        """
        self._what, self._total, self._unit, self._bytes_of = what, total, unit, bytes_of
        self._done, self._note = 0, ""
        self._began = time.monotonic()
        self._next = self._began + FIRST_SECONDS
        self._speaks = is_first() and not is_quiet()
        self._bar: Any = None
        if self._speaks and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=what, unit=unit, unit_scale=bytes_of, smoothing=0.05, dynamic_ncols=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, units: int = 1, note: str = "") -> None:
        """Count work that is done; ``note`` stands behind it."""
        self._done, self._note = self._done + units, note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        elif self._speaks and time.monotonic() >= self._next:
            self._next = time.monotonic() + NEXT_SECONDS
            _log.info("%s", self._line())

    def _line(self) -> str:
        done, total = self._said(self._done), "" if self._total is None else f" of {self._said(self._total)}"
        plural = "es" if self._unit.endswith("ch") else "s"
        unit = "" if self._bytes_of else f" {self._unit}{plural}"
        note = f", {self._note}" if self._note else ""
        left = ""
        if self._total is not None and 0 < self._done < self._total:
            seconds = (time.monotonic() - self._began) / self._done * (self._total - self._done)
            left = f", {time_left(seconds)}"
        return f"{self._what}: {done}{total}{unit}{note}{left}"

    def _said(self, amount: int) -> str:
        return f"{amount / 1e6:,.1f} MB" if self._bytes_of else f"{amount:,}"


def watched(items: Iterable[_Item], what: str, unit: str, total: int | None = None) -> Iterator[_Item]:
    """The items, one after the other, with progress; ``total``: how many they are, where they do not say it."""
    count = len(items) if total is None and isinstance(items, Sized) else total
    with Progress(what, count, unit) as progress:
        for item in items:
            yield item
            progress.add()


def duration(seconds: float) -> str:
    """A duration in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def time_left(seconds: float) -> str:
    """The time that work still needs, about."""
    return f"about {duration(seconds)} left"


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes what is logged to stderr, in lines above the bars that are there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or several."""
        with _bars_aside():
            super().emit(record)


def _bars_aside() -> AbstractContextManager[Any]:
    """While the block lasts, no bar is there; where there is none, not even their lock is touched."""
    bars = sys.modules.get("tqdm")
    if bars is None or not getattr(bars.tqdm, "_instances", ()):
        return nullcontext()
    aside: AbstractContextManager[Any] = bars.tqdm.external_write_mode(file=sys.stderr)
    return aside
