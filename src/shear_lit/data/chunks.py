"""The chunks of a prepared data set: where they lie, and reading from them once they are known to be whole."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from shear_lit.data.errors import DamagedData
from shear_lit.data.manifest import ChunkRecord, size_problem
from shear_lit.data.preparation.packing import file_hash

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
        self._root = Path(directory)
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
            raise DamagedData(damage(f"{self._root / folder / chunk.file}: {ENDS_EARLY}"))
        return data

    def problem(self, folder: str, chunk: ChunkRecord) -> str | None:
        """As in ``Chunks``."""
        path = self._root / folder / chunk.file
        what = content_problem(path, chunk)
        return None if what is None else f"{path}: {what}"

    def check_room(self, domains: Sequence[Sequence[ChunkRecord]]) -> None:
        """As in ``Chunks``: in place, reading takes no room."""

    def _opened(self, folder: str, chunk: ChunkRecord) -> int:
        if (folder, chunk.file) not in self._verified:
            if (what := self.problem(folder, chunk)) is not None:
                raise DamagedData(damage(what))
            self._verified.add((folder, chunk.file))
        return os.open(self._root / folder / chunk.file, os.O_RDONLY)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # open files do not travel

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def content_problem(path: Path, chunk: ChunkRecord) -> str | None:
    """What tells against a file's being ``chunk``: its presence, size or SHA-256; nothing if nothing does."""
    if (what := size_problem(path, chunk)) is not None:
        return what
    if (found := file_hash(path)) != chunk.sha256:
        return f"the chunk's content changed (SHA-256 {found[:12]}… instead of {chunk.sha256[:12]}…)"
    return None


def damage(what: str) -> str:
    """The message about a damaged file, which ``what`` names."""
    return (
        f"data.directory: {what}: the prepared data is damaged or half-copied. "
        "Copy the file again, or run `shear-lit prepare` again; `shear-lit prepare --check` names every such file."
    )
