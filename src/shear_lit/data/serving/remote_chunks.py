"""The chunks of prepared data in remote storage, read through the cache that the processes of a node share."""

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.order.permutation import WINDOW_CHUNKS
from shear_lit.data.prepared.chunk_reading import ENDS_EARLY, Kept
from shear_lit.data.prepared.manifest import ChunkRecord, FileRecord, damaged
from shear_lit.data.serving.cache import CACHE_BYTES, ChunkCache
from shear_lit.data.serving.remote import RemoteDirectory, RemoteError, RemoteSettings


class RemoteChunks:
    """The chunks below an address, read through a cache that holds at least one window of each domain."""

    def __init__(self, address: str, settings: RemoteSettings) -> None:
        self._address, self._place = address, RemoteDirectory(address, settings.attempts)
        self._cache = ChunkCache(settings.cache_directory, settings.cache_bytes)
        self._settings = settings

    is_remote = True
    """As in ``Chunks``."""

    def read(self, folder: str, file: FileRecord, offset: int, size: int) -> bytes:
        """As in ``Chunks``. Nothing stays open: what the cache removes is gone from the disk."""
        name = f"{folder}/{file.file}"
        descriptor = self._cache.open(file, partial(self._place.fetch, name, expected=file))
        try:
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(data) != size:
            raise damaged(self._address, f"{self._place.name_of(name)}: {ENDS_EARLY}", DamagedData)
        return data

    def problem(self, folder: str, file: FileRecord) -> str | None:
        """As in ``Chunks``: of what the storage holds, not of the cache."""
        with tempfile.TemporaryDirectory() as scratch:
            try:
                self._place.fetch(f"{folder}/{file.file}", Path(scratch) / "file", file)
            except RemoteError as error:
                return str(error.args[0])
        return None

    def touch(self, folder: str, file: FileRecord) -> bool:
        """As in ``Chunks``."""
        return self._cache.touch(file)

    def bring(self, folder: str, file: FileRecord, kept: Kept) -> None:
        """As in ``Chunks``."""
        once = RemoteDirectory(self._address, attempts=1)
        os.close(self._cache.open(file, partial(once.fetch, f"{folder}/{file.file}", expected=file), kept))

    def check_room(self, domains: Sequence[Sequence[ChunkRecord]]) -> None:
        """Refuse a cache that would have to download the same chunks again and again.

        Raises:
            DataError: one window of each domain and one more chunk do not fit.
        """
        sizes = [sorted((chunk.bytes for chunk in chunks), reverse=True) for chunks in domains]
        largest = max((domain[0] for domain in sizes if domain), default=0)
        needed = sum(sum(domain[:WINDOW_CHUNKS]) for domain in sizes) + largest
        if (free := self._cache.free()) < needed:
            raise DataError(
                f"{self._settings.cache_bytes}: {free:,} bytes can be used in "
                f"cache_directory={self._settings.cache_directory!r}, and the {WINDOW_CHUNKS} chunks of each "
                f"domain among which sequences are shuffled take {needed:,}. Use cache_bytes={needed} or more on a "
                "disk that has them free, or prepare the data with a smaller chunk_bytes.",
                key=CACHE_BYTES,
            )
