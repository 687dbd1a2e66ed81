"""Chunks as they are read: those of a local directory in place, and what others must offer, wherever they lie."""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

from shear_lit.data.errors import DamagedData
from shear_lit.data.prepared.chunks import content_problem
from shear_lit.data.prepared.manifest import ChunkRecord, FileRecord, damaged
from shear_lit.data.prepared.verified import VerifiedFiles
from shear_lit.disk.names import expanded

ENDS_EARLY = "the file was cut off after it was opened"
"""What a short read means."""

_OPEN_FILES = 128

Kept = Callable[[], Set[str]]
"""The hashes of files that make no room for another; asked when room is made, as they change while it is waited for."""


class Chunks(Protocol):
    """Chunks by the folder of their domain and split (``wiki/prune``), wherever they lie."""

    @property
    def is_remote(self) -> bool:
        """Whether some are fetched before they can be read."""
        ...

    def read(self, folder: str, file: FileRecord, offset: int, size: int) -> bytes:
        """``size`` bytes of a file from ``offset`` on; the file is verified when this node first reads it.

        Raises:
            DamagedData: the file is not what the manifest says.
        """
        ...

    def problem(self, folder: str, file: FileRecord) -> str | None:
        """What is wrong with a file, all of which is read, after its name; nothing if it is what the manifest says."""
        ...

    def check_room(self, domains: Sequence[Sequence[ChunkRecord]]) -> None:
        """Refuse, by a ``DataError``, settings that leave too little room to read these chunks of each domain."""
        ...

    def touch(self, folder: str, file: FileRecord) -> bool:
        """Whether a file is at hand; it counts as one that was read now."""
        ...

    def bring(self, folder: str, file: FileRecord, kept: Kept) -> None:
        """Have a file at hand before it is read, asked for once, without removing those of the hashes ``kept``.

        Raises:
            DataError: it cannot be had, or there is no room.
        """
        ...


class LocalChunks:
    """The chunks of a local directory, read in place; a few of them stay open."""

    is_remote = False
    """As in ``Chunks``."""

    def __init__(self, directory: str | Path) -> None:
        self._directory, self._root = str(directory), expanded(directory)
        self._verified = VerifiedFiles()
        self._open: OrderedDict[tuple[str, str], int] = OrderedDict()

    def read(self, folder: str, file: FileRecord, offset: int, size: int) -> bytes:
        """As in ``Chunks``. A process started by fork shares the open files: reading moves no position in them."""
        key = (folder, file.file)
        if key not in self._open:
            self._open[key] = self._opened(folder, file)
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(key)
        data = os.pread(self._open[key], size, offset)
        if len(data) != size:
            raise damaged(self._directory, f"{self._root / folder / file.file}: {ENDS_EARLY}", DamagedData)
        return data

    def problem(self, folder: str, file: FileRecord) -> str | None:
        """As in ``Chunks``."""
        path = self._root / folder / file.file
        what = content_problem(path, file, self._root)
        return None if what is None else f"{path}: {what}"

    def check_room(self, domains: Sequence[Sequence[ChunkRecord]]) -> None:
        """As in ``Chunks``: in place, reading takes no room."""

    def touch(self, folder: str, file: FileRecord) -> bool:
        """As in ``Chunks``: everything is."""
        return True

    def bring(self, folder: str, file: FileRecord, kept: Kept) -> None:
        """As in ``Chunks``: everything is."""

    def _opened(self, folder: str, file: FileRecord) -> int:
        path = self._root / folder / file.file
        if (
            what := self._verified.problem(path, file.sha256, lambda: self.problem(folder, file))
        ) is not None:
            raise damaged(self._directory, what, DamagedData)
        return os.open(path, os.O_RDONLY)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # open files do not travel

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
