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
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunk_reading import Kept
from shear_lit.data.prepared.chunks import content_problem
from shear_lit.data.prepared.manifest import FileRecord
from shear_lit.data.prepared.verified import VerifiedFiles
from shear_lit.disk.names import expanded

CACHE_BYTES, CACHE_DIRECTORY = "data.remote.cache_bytes", "data.remote.cache_directory"
"""The keys of its settings, as ``fit`` calls them."""

_CHUNK, _PARTIAL = ".bin", ".partial"
# The directory is the user's choice: what lies there under other names is somebody else's, and is not touched.
_CHUNK_NAME, _PARTIAL_NAME = re.compile(r"[0-9a-f]{64}\.bin"), re.compile(r"[0-9a-f]{64}-([0-9]+)\.partial")
_POLL_SECONDS = 0.1


class PassedByError(DataError):
    """A chunk that was to be at hand before it is read, and has been read since."""


class ChunkCache:
    """Keeps the chunks that were read last. Whoever holds a chunk open can read it to the end, removed or not."""

    def __init__(self, directory: str | Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = expanded(directory), max_bytes
        self._verified = VerifiedFiles()

    def touch(self, chunk: FileRecord) -> bool:
        """Whether a chunk is here; it counts as one that was read now."""
        try:
            descriptor = os.open(self._path(chunk), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        _read_now(descriptor)
        os.close(descriptor)
        return True

    def open(self, chunk: FileRecord, download: Callable[[Path], None], kept: Kept = frozenset) -> int:
        """A descriptor of the chunk's file, which ``download`` writes if it is not there; the caller closes it.

        A file that was left here is verified once a node, or when it was written to, and downloaded again if damaged.
        Chunks of the hashes ``kept`` do not make room for it, and what others download is not waited for then.

        Raises:
            DataError: the cache or its disk cannot hold the chunk.
            PassedByError: chunks are ``kept``, and it is none of them.
        """
        path = self._path(chunk)
        while True:
            try:
                descriptor = os.open(
                    path, os.O_RDONLY | os.O_NONBLOCK
                )  # a pipe of that name is not waited at
            except FileNotFoundError:
                found = self._downloaded(chunk, path, download, kept)
                if found is None:  # another process has just brought it
                    continue
                return found
            if not self._is_whole(path, chunk):
                path.unlink(missing_ok=True)
            elif _is_at(path, descriptor):
                _read_now(descriptor)
                return descriptor
            os.close(descriptor)  # what is there now is another file

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
        there = sum(size for _, size, _ in self._chunks()) + sum(
            written for _, _, written in self._downloads()
        )
        return min(self._max_bytes, there + shutil.disk_usage(self._folder).free)

    def _is_whole(self, path: Path, chunk: FileRecord) -> bool:
        look = partial(content_problem, path, chunk)
        return self._verified.problem(path, chunk.sha256, look, moves=True) is None

    def _path(self, chunk: FileRecord) -> Path:
        return self._folder / f"{chunk.sha256}{_CHUNK}"

    def _downloaded(
        self, chunk: FileRecord, path: Path, download: Callable[[Path], None], kept: Kept
    ) -> int | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock(path.name)):
            if path.exists():
                return None
            if (held := kept()) and chunk.sha256 not in held:
                raise PassedByError(f"{chunk.file} is not read any more", key=CACHE_BYTES)
            with self._reserved(chunk, kept) as folder:
                download(folder / path.name)
                descriptor = os.open(folder / path.name, os.O_RDONLY)
                self._verified.note(folder / path.name, chunk.sha256, moves=True)
                (folder / path.name).replace(path)
        _read_now(descriptor)
        return descriptor

    @contextmanager
    def _reserved(self, chunk: FileRecord, kept: Kept) -> Iterator[Path]:
        """A folder to download into, once there is room for the chunk."""
        folder = self._folder / f"{chunk.sha256}-{chunk.bytes}{_PARTIAL}"
        while not self._reserve(folder, chunk.bytes, kept):
            time.sleep(_POLL_SECONDS)  # until the others' downloads are there, and may go
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _reserve(self, own: Path, needed: int, kept: Kept) -> bool:
        with FileLock(self._folder / "room.lock"):
            held = kept()
            self._remove_left_overs(own)
            downloads = list(self._downloads())
            waiting = sum(size for _, size, _ in downloads)
            on_disk = needed + sum(
                max(0, size - written) for _, size, written in downloads
            )  # they will write it
            chunks = sorted(self._chunks())
            total = waiting + sum(size for _, size, _ in chunks)
            for _, size, path in chunks:
                if path.stem in held:
                    continue
                if total + needed <= self._max_bytes and self._disk_free() >= on_disk:
                    break
                path.unlink(missing_ok=True)
                total -= size
            if total + needed <= self._max_bytes and self._disk_free() >= on_disk:
                own.mkdir()
                return True
        if not waiting or held:
            raise self._too_small(needed)
        return False

    def _remove_left_overs(self, own: Path) -> None:
        """Remove downloads of processes that are gone: nobody holds their lock, or this process does."""
        for folder, _, _ in self._downloads():
            if self._lock(folder.name) == self._lock(own.name):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with suppress(Timeout), FileLock(self._lock(folder.name), timeout=0):
                shutil.rmtree(folder, ignore_errors=True)

    def _lock(self, name: str) -> Path:
        return self._folder / f"{name[:2]}.lock"  # few locks, which may stay

    def _downloads(self) -> Iterator[tuple[Path, int, int]]:
        """The folders of downloads under way or left, the bytes that each was to take, and those that it has."""
        for path in self._folder.glob(f"*{_PARTIAL}"):
            if (named := _PARTIAL_NAME.fullmatch(path.name)) and not path.is_symlink():
                yield path, int(named[1]), _bytes_in(path)

    def _chunks(self) -> Iterator[tuple[int, int, Path]]:
        """When each chunk was last read, its size, and its file."""
        for path in self._folder.glob(f"*{_CHUNK}"):
            if not _CHUNK_NAME.fullmatch(path.name):
                continue
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue  # another process removed it
            yield found.st_atime_ns, found.st_size, path

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


def _read_now(descriptor: int) -> None:
    """Set the clock by which a chunk goes: that of reading, as that of writing tells that its content is the same."""
    os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name, which was verified."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _bytes_in(folder: Path) -> int:
    """Bytes that a download has written: none where it has just ended."""
    total = 0
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            total += path.stat().st_size
    return total
