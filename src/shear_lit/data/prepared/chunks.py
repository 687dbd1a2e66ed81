"""The chunks of a prepared data set: where they lie, and reading from them once they are known to be whole."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from shear_lit.data.errors import DamagedData
from shear_lit.data.prepared.manifest import ChunkRecord, damaged, size_problem
from shear_lit.data.preparing.packing import file_hash
from shear_lit.disk.names import expanded

ENDS_EARLY = "the chunk was cut off after it was opened"
"""What a short read means."""

_OPEN_FILES = 128


class Chunks(Protocol):
    """Chunks by the folder of their domain and split (``wiki/prune``), wherever they lie."""

    def read(self, folder: str, chunk: ChunkRecord, offset: int, size: int) -> bytes:
        """``size`` bytes of a chunk from ``offset`` on; the chunk is verified when this process first reads it.

        Raises:
            DamagedData: the chunk is not what the manifest says.
        """
        ...

    def problem(self, folder: str, chunk: ChunkRecord) -> str | None:
        """What is wrong with a chunk, all of which is read, after its name; nothing if it is what the manifest says."""
        ...

    def check_room(self, domains: Sequence[Sequence[ChunkRecord]]) -> None:
        """Refuse, by a ``DataError``, settings that leave too little room to read these chunks of each domain."""
        ...


class LocalChunks:
    """The chunks of a local directory, read in place; a few of them stay open."""

    def __init__(self, directory: str | Path) -> None:
        self._directory, self._root = str(directory), expanded(directory)
        self._verified: set[tuple[str, str]] = set()
        self._open: OrderedDict[tuple[str, str], int] = OrderedDict()

    def read(self, folder: str, chunk: ChunkRecord, offset: int, size: int) -> bytes:
        """As in ``Chunks``. A process started by fork shares the open files: reading moves no position in them."""
        key = (folder, chunk.file)
        if key not in self._open:
            self._open[key] = self._opened(folder, chunk)
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(key)
        data = os.pread(self._open[key], size, offset)
        if len(data) != size:
            raise damaged(self._directory, f"{self._root / folder / chunk.file}: {ENDS_EARLY}", DamagedData)
        return data

    def problem(self, folder: str, chunk: ChunkRecord) -> str | None:
        """As in ``Chunks``."""
        path = self._root / folder / chunk.file
        what = content_problem(path, chunk, self._root)
        return None if what is None else f"{path}: {what}"

    def check_room(self, domains: Sequence[Sequence[ChunkRecord]]) -> None:
        """As in ``Chunks``: in place, reading takes no room."""

    def _opened(self, folder: str, chunk: ChunkRecord) -> int:
        if (folder, chunk.file) not in self._verified:
            if (what := self.problem(folder, chunk)) is not None:
                raise damaged(self._directory, what, DamagedData)
            self._verified.add((folder, chunk.file))
        return os.open(self._root / folder / chunk.file, os.O_RDONLY)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # open files do not travel

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def content_problem(path: Path, chunk: ChunkRecord, root: Path | None = None) -> str | None:
    """What tells against a file's being ``chunk``: its place, presence, size or SHA-256; nothing if nothing does."""
    if (what := size_problem(path, chunk, root)) is not None:
        return what
    try:
        found = file_hash(path)
    except OSError as error:
        return f"the chunk cannot be read ({error.strerror or error})"
    if found != chunk.sha256:
        return f"the chunk's content changed (SHA-256 {found[:12]}… instead of {chunk.sha256[:12]}…)"
    return None
