"""Files that may be compressed, read as what they hold, within bounded memory; one that is cut off is refused."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from shear_lit.data.text.refusals import unreadable

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zstd")
"""What the name of a compressed file ends with."""
PACKAGES = {".zst": "zstandard", ".zstd": "zstandard"}
"""The packages that reading them takes, where the standard library is not enough."""

_MOST_WINDOW_BYTES = 1 << 29  # what a file asks for to be decompressed
_FED_BYTES = 1 << 12  # which may stand for thirty thousand times as much
_BUFFER = 1 << 18


@contextmanager
def opened(name: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file as it lies on disk, and what it holds, which is read from its beginning.

    Raises:
        DataError: it cannot be read, or is truncated or damaged as far as it is read.
    """
    try:
        with open(name, "rb") as file:  # noqa: PTH123 (a plain path, read far more often than made)
            yield file, _content(file, Path(name).suffix.lower())
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # gzip.BadGzipFile is an OSError
        raise unreadable(name, error) from error


def _content(file: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix not in COMPRESSIONS:
        return file
    if not file.read(1):
        raise EOFError("it is empty, which no archive is")
    file.seek(0)
    if suffix == ".gz":
        return cast(IO[bytes], io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=file)), _BUFFER))
    frames = {".bz2": _Bzip2Frame, ".xz": _XzFrame}.get(suffix, _ZstandardFrame)
    return io.BufferedReader(_Frames(file, frames), _BUFFER)


class _Frames(io.RawIOBase):
    """Decompresses frame after frame; the readers of the libraries take garbage after a frame for the end."""

    def __init__(self, file: IO[bytes], frame: Any) -> None:
        self._file, self._new = file, frame
        self._frame: Any = None
        self._pending = memoryview(b"")  # of which a part is taken without copying the rest
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and self._more():
            pass
        taken, self._pending = self._pending[: len(buffer)], self._pending[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _more(self) -> bool:
        """Decompress a little more; whether there was any."""
        if self._frame is not None and self._frame.has_more:
            self._pending = memoryview(self._frame.decompress(b""))
            return True
        content = self._left or self._file.read(_FED_BYTES)
        self._left = b""
        if not content:
            if self._frame is not None:
                raise EOFError("it ends inside a frame")
            return False
        if self._frame is None:
            if not (content := self._new.without_padding(content)):
                return True
            self._frame = self._new()
        self._pending = memoryview(self._frame.decompress(content))
        if self._frame.eof:
            self._left, self._frame = self._frame.unused_data, None
        return True


class _BoundedFrame:
    """A frame of a decompressor of the standard library, which gives so much at a time as it is asked for."""

    def __init__(self, decompressor: Any) -> None:
        self._decompressor = decompressor

    @property
    def has_more(self) -> bool:
        return not self._decompressor.needs_input

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    @property
    def unused_data(self) -> bytes:
        return cast(bytes, self._decompressor.unused_data)

    def decompress(self, content: bytes) -> bytes:
        return cast(bytes, self._decompressor.decompress(content, _BUFFER))


class _Bzip2Frame(_BoundedFrame):
    def __init__(self) -> None:
        super().__init__(bz2.BZ2Decompressor())

    @staticmethod
    def without_padding(content: bytes) -> bytes:
        return content


class _XzFrame(_BoundedFrame):
    def __init__(self) -> None:
        super().__init__(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_WINDOW_BYTES))

    @staticmethod
    def without_padding(content: bytes) -> bytes:
        """Zeros may lie between two streams and after the last one."""
        return content.lstrip(b"\0")


class _ZstandardFrame:
    has_more = False

    def __init__(self) -> None:
        import zstandard  # wanted for this kind of input alone

        self._error = zstandard.ZstdError
        self._frame = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES).decompressobj()

    @staticmethod
    def without_padding(content: bytes) -> bytes:
        return content

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        return cast(bytes, self._frame.unused_data)

    def decompress(self, content: bytes) -> bytes:
        try:
            return cast(bytes, self._frame.decompress(content))
        except self._error as error:
            raise EOFError(str(error)) from error
