"""How data in remote storage is read: the settings, for which nothing else is imported."""

from dataclasses import dataclass

from shear_lit.data.errors import DataError
from shear_lit.ranges import Count


@dataclass(frozen=True, kw_only=True)
class RemoteSettings:
    """How data in remote storage is read (s3://, gs://, hf://datasets/); local directories are read in place."""

    cache_directory: str = "~/.cache/shear_lit/chunks"
    """Directory of this machine that keeps downloaded chunks; processes, runs and data sets may share it."""
    cache_bytes: Count = 64 << 30
    """Bytes that the cache takes at most; what was read longest ago goes first. A window of each domain must fit."""
    attempts: Count = 8
    """How often an object is asked for before the run stops; the waits between double from 1 second up to 60."""

    def __post_init__(self) -> None:
        if self.cache_bytes < 1 or self.attempts < 1:
            raise DataError(
                f"{self.cache_bytes} and remote.attempts={self.attempts} must both be at least 1. "
                "Correct them.",
                key="data.remote.cache_bytes",
            )


REMOTE = RemoteSettings()
"""The defaults."""
