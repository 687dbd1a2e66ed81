"""The demo's cache: where it is, and directories that are in it whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from shear_lit.disk.names import expanded
from shear_lit.disk.reading import read_json
from shear_lit.mistakes import Mistake

PROVENANCE = "provenance.json"
"""The file in each cached directory that says what it was made from."""


class CacheError(Mistake):
    """A cache that cannot be used as it is."""


def default_cache() -> Path:
    """Where the demo keeps what it fetched: ``SHEAR_LIT_CACHE``, or ``~/.cache/shear_lit``."""
    chosen = os.environ.get("SHEAR_LIT_CACHE")
    return expanded(chosen) if chosen else Path.home() / ".cache" / "shear_lit"


def require_space(directory: Path, needed: int, *, purpose: str) -> None:
    """Make ``directory`` and refuse to go on if its disk has fewer than ``needed`` bytes free.

    Raises:
        CacheError: too little space.
    """
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise CacheError(
            f"SHEAR_LIT_CACHE={directory}: {free / 1e6:.0f} MB are free, but {purpose} needs {needed / 1e6:.0f} MB. "
            f"Free some space, or set SHEAR_LIT_CACHE to a directory on another disk."
        )


def build_once(directory: Path, provenance: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """Return ``directory``, filled by ``build`` if it is not there yet; it appears complete or not at all.

    ``provenance`` is written beside what ``build`` wrote, and compared on every later use.

    Raises:
        CacheError: the directory is there, but was made from something else.
    """
    if directory.exists():
        return _checked(directory, provenance)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".partial-") as scratch:
        partial = Path(scratch) / directory.name
        partial.mkdir()
        build(partial)
        (partial / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
        try:
            partial.rename(directory)
        except OSError:
            if not directory.exists():
                raise
    return _checked(directory, provenance)  # another process may have been the first


def _checked(directory: Path, provenance: Mapping[str, object]) -> Path:
    try:
        found = read_json(directory / PROVENANCE)
    except (OSError, ValueError):
        found = None
    if found != dict(provenance):
        raise CacheError(
            f"SHEAR_LIT_CACHE: {directory} was not made by this version from its pinned packages "
            f"({PROVENANCE} is missing or differs), and using it would give other figures. "
            f"Delete this directory, or set SHEAR_LIT_CACHE to another one."
        )
    return directory
