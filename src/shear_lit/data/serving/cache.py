"""A bounded directory of chunks that processes share; a chunk's name is its hash, so that data sets may share it too.

litdata's downloaders are used, its cache is not: made for reading chunk after chunk, it marks a chunk for removal when
its reader turns to another, keeps more than its bound, asks a thousand times before it reports an outage, verifies
nothing, and takes data on the hub to be Parquet.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import content_problem
from shear_lit.data.prepared.manifest import FileRecord
from shear_lit.disk.names import expanded

CACHE_BYTES, CACHE_DIRECTORY = "data.remote.cache_bytes", "data.remote.cache_directory"
"""The keys of its settings, as ``fit`` calls them."""

_CHUNK, _PARTIAL = ".bin", ".partial"
# The directory is the user's choice: what lies there under other names is somebody else's, and is not touched.
_CHUNK_NAME, _PARTIAL_NAME = re.compile(r"[0-9a-f]{64}\.bin"), re.compile(r"[0-9a-f]{64}-([0-9]+)\.partial")
_POLL_SECONDS = 0.1


class ChunkCache:
    """Keeps the chunks that were read last. Whoever holds a chunk open can read it to the end, removed or not."""

    def __init__(self, directory: str | Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = expanded(directory), max_bytes
        self._verified: set[str] = set()

    def open(self, chunk: FileRecord, download: Callable[[Path], None]) -> int:
        """A descriptor of the chunk's file, which ``download`` writes if it is not there; the caller closes it.

        A file that an earlier process left is verified when this one first opens it, and downloaded again if damaged.

        Raises:
            DataError: the cache or its disk cannot hold the chunk.
        """
        path = self._folder / f"{chunk.sha256}{_CHUNK}"
        while True:
            try:
                descriptor = os.open(
                    path, os.O_RDONLY | os.O_NONBLOCK
                )  # a pipe of that name is not waited at
            except FileNotFoundError:
                found = self._downloaded(chunk, path, download)
                if found is None:  # another process has just brought it
                    continue
                return found
            if self._is_whole(path, chunk):
                os.utime(descriptor)  # read now: it goes last
                return descriptor
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def free(self) -> int:
        """Bytes that chunks can take here: what the setting allows, and the disk.

        Raises:
            DataError: the directory cannot be made or written to.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(str(error)) from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise self._not_writable("no permission to write there")
        there = sum(size for _, size, _ in self._chunks())
        return min(self._max_bytes, there + shutil.disk_usage(self._folder).free)

    def _is_whole(self, path: Path, chunk: FileRecord) -> bool:
        if chunk.sha256 not in self._verified:
            if content_problem(path, chunk) is not None:
                return False
            self._verified.add(chunk.sha256)
        return True

    def _downloaded(self, chunk: FileRecord, path: Path, download: Callable[[Path], None]) -> int | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock(path.name)):
            if path.exists():
                return None
            with self._reserved(chunk) as partial:
                download(partial / path.name)
                descriptor = os.open(partial / path.name, os.O_RDONLY)
                (partial / path.name).replace(path)
        self._verified.add(chunk.sha256)
        return descriptor

    @contextmanager
    def _reserved(self, chunk: FileRecord) -> Iterator[Path]:
        """A folder to download into, once there is room for the chunk."""
        partial = self._folder / f"{chunk.sha256}-{chunk.bytes}{_PARTIAL}"
        while not self._reserve(partial, chunk.bytes):
            time.sleep(_POLL_SECONDS)  # until the others' downloads are there, and may go
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _reserve(self, partial: Path, needed: int) -> bool:
        with FileLock(self._folder / "room.lock"):
            self._remove_left_overs(partial)
            waiting = sum(size for _, size in self._downloads())
            chunks = sorted(self._chunks())
            total = waiting + sum(size for _, size, _ in chunks)
            for _, size, path in chunks:
                if total + needed <= self._max_bytes and self._disk_free() >= needed:
                    break
                path.unlink(missing_ok=True)
                total -= size
            if total + needed <= self._max_bytes and self._disk_free() >= needed:
                partial.mkdir()
                return True
        if not waiting:
            raise self._too_small(needed)
        return False

    def _remove_left_overs(self, own: Path) -> None:
        """Remove downloads of processes that are gone: nobody holds their lock, or this process does."""
        for partial, _ in self._downloads():
            if self._lock(partial.name) == self._lock(own.name):
                shutil.rmtree(partial, ignore_errors=True)
                continue
            with suppress(Timeout), FileLock(self._lock(partial.name), timeout=0):
                shutil.rmtree(partial, ignore_errors=True)

    def _lock(self, name: str) -> Path:
        return self._folder / f"{name[:2]}.lock"  # few locks, which may stay

    def _downloads(self) -> Iterator[tuple[Path, int]]:
        """The folders of downloads that are under way or were left, and the bytes that each was to take."""
        for path in self._folder.glob(f"*{_PARTIAL}"):
            if (named := _PARTIAL_NAME.fullmatch(path.name)) and not path.is_symlink():
                yield path, int(named[1])

    def _chunks(self) -> Iterator[tuple[int, int, Path]]:
        """When each chunk was last read, its size, and its file."""
        for path in self._folder.glob(f"*{_CHUNK}"):
            if not _CHUNK_NAME.fullmatch(path.name):
                continue
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue  # another process removed it
            yield found.st_mtime_ns, found.st_size, path

    def _disk_free(self) -> int:
        return shutil.disk_usage(self._folder).free

    def _not_writable(self, why: str) -> DataError:
        return DataError(
            f"{str(self._folder)!r} cannot be written to ({why}): downloaded chunks are kept there. "
            "Name another directory.",
            key=CACHE_DIRECTORY,
        )

    def _too_small(self, needed: int) -> DataError:
        return DataError(
            f"{self._max_bytes}, cache_directory={str(self._folder)!r}: a chunk of "
            f"{needed:,} bytes does not fit, and {self._disk_free():,} bytes are free on that disk. "
            "Raise cache_bytes, make space, or name a directory on another disk, and resume the run.",
            key=CACHE_BYTES,
        )
