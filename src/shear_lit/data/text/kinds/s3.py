"""Objects in S3, read as files of their kind.

Of a file of plain lines, each piece is a range that is read as such. Any other object is copied to the directory of
the run: each process keeps the one that it read last, and no other.
"""

import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from shear_lit.data.errors import DataError
from shear_lit.data.storage.attempts import StorageError
from shear_lit.data.storage.s3 import fetch, problem, read_range
from shear_lit.data.text.documents import Found
from shear_lit.data.text.kind import Kind, Piece, Reading, Source
from shear_lit.data.text.kinds.json_files import is_json_file
from shear_lit.data.text.kinds.lines import Lines

_HEAD_BYTES = 1 << 22  # looked at before the work
_BEYOND_BYTES = 1 << 16  # read behind a range, for the line that begins in it


class InS3:
    """An input in S3 that is of another kind besides.

    Args:
        kind: How the documents lie in it.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        if not _needs_copy(source):
            for piece in self._kind.cut(source, reading):
                yield replace(piece, version=source.version, whole=source.bytes)
            return
        with _copy(source, reading) as name:
            for piece in self._kind.cut(replace(source, name=name), reading):
                yield replace(piece, name=source.name, version=source.version, whole=source.bytes)

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        if piece.block:
            yield from self._kind.documents(piece, reading)
        elif piece.kind == "lines":
            with _told(piece), _Ranges(piece) as file:
                yield from Lines().documents_of(cast(IO[bytes], file), piece, reading)
        elif piece.names:
            for number, name in enumerate(piece.names, start=1):
                own = replace(piece, name=name, version="")  # that of each is known only where it is listed
                with _told(own), _written(own, reading, partial(fetch, name)) as local:
                    for found in self._kind.documents(replace(own, name=local, names=(local,)), reading):
                        yield found._replace(number=number)
        else:
            with _copy(piece, reading) as local:
                yield from self._kind.documents(replace(piece, name=local), reading)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``: of plain lines only the first are fetched."""
        if _needs_copy(source):
            with _copy(source, reading) as name:
                self._kind.check(replace(source, name=name), reading)
            return
        if source.kind != "lines":
            return
        with _told(source):
            head = read_range(source.name, 0, _HEAD_BYTES, source.version)
        head = head if len(head) == source.bytes else head[: head.rfind(b"\n") + 1]
        with _written(source, reading, lambda path: _write(path, head)) as name:
            self._kind.check(replace(source, name=name, bytes=len(head)), reading)


def release_copy() -> None:
    """Remove the copy that this process has."""
    if _Held.name:
        _Held.path.unlink(missing_ok=True)
        with suppress(OSError):
            _Held.path.parent.rmdir()
        _Held.name = ""


class _Ranges(io.RawIOBase):
    """An object from the beginning of a piece on, read so that all of the piece is one request."""

    def __init__(self, piece: Piece) -> None:
        self._piece, self._position = piece, 0
        self._start, self._content = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        self._position = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        inside = self._position - self._start
        if not 0 <= inside < len(self._content):
            if self._position >= self._piece.whole:
                return 0
            size = max(self._piece.end - self._position, 0) + max(_BEYOND_BYTES, len(buffer))
            size = min(size, self._piece.whole - self._position)
            self._content = read_range(self._piece.name, self._position, size, self._piece.version)
            self._start, inside = self._position, 0
        taken = self._content[inside : inside + len(buffer)]
        buffer[: len(taken)] = taken
        self._position += len(taken)
        return len(taken)


def _needs_copy(source: Source) -> bool:
    """Whether an input is cut by what it holds."""
    return source.kind != "text" and (source.kind != "lines" or is_json_file(source.name))


class _Held:
    """The copy that this process has."""

    name, version, path = "", "", Path()


@contextmanager
def _copy(of: Source | Piece, reading: Reading) -> Iterator[str]:
    """The name of a copy of an object, which stays until this process asks for another."""
    if (_Held.name, _Held.version) != (of.name, of.version) or not _Held.path.is_file():
        release_copy()
        path = _place(of, reading)
        with _told(of):
            fetch(of.name, path, of.version)
        _release_at_exit(os.getpid())
        _Held.name, _Held.version, _Held.path = of.name, of.version, path
    with _called(of, _Held.path):
        yield str(_Held.path)


@contextmanager
def _written(of: Source, reading: Reading, write: Callable[[Path], None]) -> Iterator[str]:
    path = _place(of, reading)
    try:
        write(path)
        with _called(of, path):
            yield str(path)
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _place(of: Source | Piece, reading: Reading) -> Path:
    """A new file, of which the end of the name says how it is read."""
    reading.scratch.mkdir(parents=True, exist_ok=True)
    return reading.scratch / f"{secrets.token_hex(8)}{''.join(PurePosixPath(of.name).suffixes[-2:])[-40:]}"


@lru_cache(maxsize=1)
def _release_at_exit(process: int) -> None:
    """Have this process, also where it is a worker, remove its copy when it ends."""
    from multiprocessing.util import Finalize  # which only processes that have a copy need

    Finalize(None, release_copy, exitpriority=1)


@contextmanager
def _called(of: Source | Piece, path: Path) -> Iterator[None]:
    """What is said of a copy is said of the object."""
    try:
        yield
    except DataError as error:
        error.args = (str(error.args[0]).replace(str(path), of.name), *error.args[1:])
        raise


@contextmanager
def _told(of: Source | Piece) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise problem(error, of.name, f"domains.{of.domain}") from error
