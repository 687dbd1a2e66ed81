"""Prepared data in remote storage: its objects are fetched, again where that fails.

Those in S3 come by boto3, one request each; others by litdata's downloaders.

The settings are those of commands, which start without what reading takes: it is imported where it is used.
"""

import logging
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.prepared.manifest import KEY, MANIFEST, FileRecord, Manifest
from shear_lit.data.prepared.reading import manifest_alone, parsed_manifest, read_manifest
from shear_lit.data.prepared.verified import once_in
from shear_lit.data.storage import s3
from shear_lit.data.storage.attempts import FinalError, is_final, said, wait_before
from shear_lit.disk.names import expanded
from shear_lit.disk.reading import SMALL_FILE_BYTES, read_small
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from litdata.streaming.downloader import Downloader

    from shear_lit.data.prepared.chunk_reading import Chunks

SCHEMES = ("s3://", "gs://", "hf://datasets/", "local:")
"""How an address in remote storage begins; ``local:`` is a slow mounted directory, read through the cache."""

_MOUNTED = "local:"
_WARNS_EVERY_SECONDS = 60  # one process of the node, for all
_DOWNLOADS_OF_DAMAGE = 4  # content that no wait will mend
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteSettings:
    """How data in remote storage is read (s3://, gs://, hf://datasets/); local directories are read in place."""

    cache_directory: str = "~/.cache/shear_lit/chunks"
    """Directory of this machine that keeps downloaded chunks; processes, runs and data sets may share it."""
    cache_bytes: Count = 64 << 30
    """Bytes that the cache takes at most; what was read longest ago goes first. A window of each domain must fit."""
    attempts: Count = 20
    """How often an object is asked for, with waits from 1 second up to 60 between: 20 outlast 14 minutes."""

    def __post_init__(self) -> None:
        if self.cache_bytes < 1 or self.attempts < 1:
            raise DataError(
                f"{self.cache_bytes} and remote.attempts={self.attempts} must both be at least 1. Correct them.",
                key="data.remote.cache_bytes",
            )


REMOTE = RemoteSettings()
"""The defaults."""


class RemoteError(DataError):
    """An object in remote storage that could not be had; the message names it."""

    exit_code = 1


def is_remote(directory: str | Path) -> bool:
    """Whether prepared data lies in remote storage.

    Raises:
        DataError: the address is of a storage that is not read from.
    """
    address = str(directory)
    if "://" not in address and not address.startswith("local:"):
        return False
    if not address.startswith(SCHEMES):
        raise DataError(
            f"{address!r}: prepared data is read from a local directory, or from an address that "
            f"begins with {', '.join(SCHEMES)}. Correct it; storage that speaks S3 is reached by s3:// with "
            "AWS_ENDPOINT_URL set.",
            key=KEY,
        )
    return True


def read_prepared(directory: str | Path, remote: RemoteSettings = REMOTE) -> Manifest:
    """The manifest of a prepared data set: held against the files of a local directory, fetched from remote storage.

    One process of a node looks at the files, as each file's size is looked at again when it is opened.

    Raises:
        DataError: something is missing, half-written, or not what the manifest says.
        RemoteError: it cannot be fetched.
    """
    if not is_remote(directory):
        return read_manifest(directory) if is_first_of_node() else manifest_alone(directory)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / MANIFEST
        place = RemoteDirectory(str(directory), remote.attempts)
        place.fetch(MANIFEST, path)
        return parsed_manifest(read_small(path), place.name_of(MANIFEST), place=str(directory))


def is_first_of_node() -> bool:
    """Whether no process was started before this one on its node; Lightning, torchrun and SLURM say so."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def open_chunks(directory: str | Path, remote: RemoteSettings) -> "Chunks":
    """The chunks of a prepared data set, wherever it lies; nothing is read yet."""
    from shear_lit.data.prepared.chunk_reading import LocalChunks
    from shear_lit.data.serving.remote_chunks import RemoteChunks

    return RemoteChunks(str(directory), remote) if is_remote(directory) else LocalChunks(directory)


class RemoteDirectory:
    """The objects below an address."""

    def __init__(self, address: str, attempts: int) -> None:
        if address.startswith(_MOUNTED):
            address = f"{_MOUNTED}{expanded(address.removeprefix(_MOUNTED))}"
        self._address, self._attempts = address.rstrip("/"), attempts

    def name_of(self, name: str) -> str:
        """The full address of an object."""
        return f"{self._address}/{name}"

    def fetch(self, name: str, target: Path, expected: FileRecord | None = None) -> None:
        """Write an object to ``target``; what should be ``expected`` is verified, and damage counts as a failure.

        No more is written than that has bytes, or than a small file may have.

        Raises:
            RemoteError: it could not be had, after so many attempts or for a reason that no attempt will change.
        """
        from shear_lit.data.prepared.chunks import content_problem

        for attempt in range(1, self._attempts + 1):
            try:
                most = SMALL_FILE_BYTES if expected is None else expected.bytes
                self._download(name, target, most, is_hashed=expected is not None)
                if expected is not None and (what := content_problem(target, expected)) is not None:
                    raise DamagedData(what)
                return
            except Exception as error:  # each storage has errors of its own
                target.unlink(missing_ok=True)
                spoilt = isinstance(error, DamagedData) and attempt >= _DOWNLOADS_OF_DAMAGE
                if attempt == self._attempts or spoilt or is_final(error):
                    raise self._given_up(name, attempt, error) from error
                seconds = wait_before(attempt)
                if once_in(_WARNS_EVERY_SECONDS, self._address):
                    message = "%s: attempt %d of %d failed (%s); the next in %d s"
                    _log.warning(message, self.name_of(name), attempt, self._attempts, said(error), seconds)
                time.sleep(seconds)

    def _download(self, name: str, target: Path, most: int, *, is_hashed: bool) -> None:
        if s3.is_address(self._address):
            with target.open("wb") as file:
                s3.copy(self.name_of(name), _Limited(file, most).write, is_hashed=is_hashed)
            return
        from litdata.streaming.downloader import Downloader

        downloader = _downloader_of(self._address, os.getpid())
        if type(downloader).download_fileobj is Downloader.download_fileobj:  # it does nothing
            if self._address.startswith(_MOUNTED):
                _check_mounted(Path(self.name_of(name).removeprefix(_MOUNTED)), most)
            downloader.download_file(self.name_of(name), str(target))
        else:  # by the storage's own library: the other way starts threads that worker processes would hang on
            with target.open("wb") as file:
                downloader.download_fileobj(self.name_of(name), _Limited(file, most))
        if not target.is_file():
            raise OSError("nothing arrived")
        if target.stat().st_size > most:
            raise _TooLargeError(most)

    def _given_up(self, name: str, attempts: int, error: Exception) -> RemoteError:
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        return RemoteError(
            f"{self._address!r}: {self.name_of(name)} could not be fetched in {times}: {said(error)}. Check address, "
            "credentials, network and disk, and resume the run; remote.attempts allows for longer outages.",
            key=KEY,
        )


class _TooLargeError(FinalError):
    def __init__(self, most: int) -> None:
        super().__init__(f"it has more than the {most:,} bytes that are expected")


class _Limited:
    """A file that takes so many bytes and no more, whatever a storage sends."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most

    def write(self, content: Any) -> int:
        if self._file.tell() + len(content) > self._most:
            raise _TooLargeError(self._most)
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _check_mounted(path: Path, most: int) -> None:
    """Refuse what cannot be copied to its end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(f"{str(path)!r} is not a file")
    if found.st_size > most:
        raise _TooLargeError(most)


@lru_cache(maxsize=8)
def _downloader_of(address: str, process: int) -> "Downloader":
    """litdata's downloader for an address; each process has its own: connections do not outlive a fork."""
    from litdata.streaming.downloader import get_downloader

    return get_downloader(address, tempfile.gettempdir(), [], {}, {})
