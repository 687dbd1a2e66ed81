"""Reading MDS folders of packed tokens, as LLM-Shearing wrote them with mosaicml-streaming.

The layout is documented by that library; a shard is ``samples`` (uint32), ``samples + 1`` offsets in the file (uint32),
the columns as JSON, and the samples. A sample is the sizes (uint32) of its columns of no fixed size, and the columns.

The library itself is not used: its last release, 0.13, demands transformers < 5 and numpy < 2.2, and this package
transformers 5, so that nothing installs both. Nothing is unpickled: of the encodings only bytes and text are read.
"""

import bz2
import gzip
import hashlib
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.errors import DataError

TOKENS, DOMAIN = "tokens", "set"
"""The columns that are read: bytes of uint16, and the domain's name."""
MERGED = "eval_merge"
"""The folder in which LLM-Shearing repeats the samples of the folders beside it."""

_INDEX = "index.json"
_TOKEN = np.dtype("<u2")
_SIZE = np.dtype("<u4")


class MdsError(DataError):
    """An MDS folder that cannot be imported."""


@dataclass(frozen=True, kw_only=True)
class PackedSample:
    """One packed sequence of an MDS folder."""

    tokens: NDArray[np.uint16]
    """Its token ids."""
    domain: str
    """Its domain: what the sample says, or the name of the folder of its index."""


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    bytes: int
    hashes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class MdsShard:
    """One file of an MDS folder, as its index describes it."""

    raw: _File
    """The samples."""
    compressed: _File | None
    """What they were compressed to, if they were."""
    compression: str
    """How; empty if they were not."""
    samples: int
    """Samples in it."""
    columns: tuple[tuple[str, int | None], ...]
    """Each column's name, and its size in bytes if that is fixed."""
    folder_name: str
    """The name of the folder of the index."""

    def __iter__(self) -> Iterator[PackedSample]:
        """Read the samples, from the shard as a whole.

        Raises:
            MdsError: the file is missing, cut off, or not what the index says.
        """
        data = memoryview(self._content())
        ends = self._offsets(data)
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            yield self._sample(data[begin:end])

    def _content(self) -> bytes:
        if self.raw.path.is_file():
            return _read(self.raw)
        if self.compressed is None:
            raise _damaged(self.raw.path, "the shard is missing")
        content = _decompressed(_read(self.compressed), self.compression, self.compressed.path)
        if len(content) != self.raw.bytes:
            raise _damaged(self.compressed.path, f"it holds {len(content):,} bytes, not {self.raw.bytes:,}")
        return content

    def _offsets(self, data: memoryview) -> NDArray[np.uint32]:
        count = int(np.frombuffer(data[:4], _SIZE)[0]) if len(data) >= 4 else -1
        head = 4 * (self.samples + 2)
        if count != self.samples or len(data) < head:
            raise _damaged(self.raw.path, f"it has {count} samples instead of {self.samples}")
        offsets = np.frombuffer(data[4:head], _SIZE)
        if offsets[0] < head or offsets[-1] > len(data) or np.any(offsets[1:] < offsets[:-1]):
            raise _damaged(self.raw.path, "its samples lie outside of it")
        return offsets

    def _sample(self, data: memoryview) -> PackedSample:
        free = sum(size is None for _, size in self.columns)
        sizes = iter(np.frombuffer(data[: 4 * free], _SIZE).tolist() if len(data) >= 4 * free else ())
        values, place = {}, 4 * free
        for name, fixed in self.columns:
            size = next(sizes, len(data) + 1) if fixed is None else fixed
            values[name] = data[place : place + size]
            place += size
        if place != len(data) or len(values[TOKENS]) % _TOKEN.itemsize:
            raise _damaged(self.raw.path, "a sample is not of the columns that the index names")
        domain = bytes(values[DOMAIN]).decode(errors="replace") if DOMAIN in values else self.folder_name
        return PackedSample(tokens=np.frombuffer(values[TOKENS], _TOKEN), domain=domain)


def mds_shards(folder: str | Path) -> list[MdsShard]:
    """The shards of an MDS folder, or of the folders below one that has no index itself; no sample is read.

    Raises:
        MdsError: there is none, or an index asks for what is not read here, such as pickled columns.
    """
    root = Path(folder).expanduser()
    indices = list(_indices(root))
    if not indices:
        raise MdsError(
            f"from_mds: {root} holds no {_INDEX}, nor do the folders in it: no MDS. Correct the path."
        )
    return [shard for index in indices for shard in _shards_of(index)]


def _indices(folder: Path) -> Iterator[Path]:
    if (folder / _INDEX).is_file():
        yield folder / _INDEX
    elif (folder / MERGED / _INDEX).is_file():
        yield folder / MERGED / _INDEX  # and not the folders beside it: their samples are in there
    elif folder.is_dir():
        for inner in sorted(folder.iterdir()):
            yield from _indices(inner)


def _shards_of(index: Path) -> list[MdsShard]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["shards"]
        return [_shard(entry, index) for entry in shards]
    except MdsError:
        raise
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise MdsError(f"from_mds: {index} cannot be read as an index of MDS shards ({error!r}).") from error


def _shard(entry: dict[str, Any], index: Path) -> MdsShard:
    if entry.get("format") != "mds" or entry.get("version") != 2:
        raise MdsError(
            f"from_mds: {index}: format {entry.get('format')!r}, version {entry.get('version')!r}: MDS of version 2 is "
            "read. Convert it with mosaicml-streaming."
        )
    columns = list(zip(entry["column_names"], entry["column_encodings"], entry["column_sizes"], strict=True))
    for name, encoding, _ in columns:
        if encoding == "pkl":
            raise MdsError(
                f"from_mds: {index}: column {name!r} is pickled, and unpickling runs whatever code the file holds. "
                "Write the data again without that column."
            )
    wanted = {name: encoding for name, encoding, _ in columns}
    if wanted.get(TOKENS) != "bytes" or wanted.get(DOMAIN, "str") != "str":
        raise MdsError(
            f"from_mds: {index} has the columns {wanted}: {TOKENS!r} must be 'bytes' (token ids as uint16) and "
            f"{DOMAIN!r}, if there is one, 'str' (the domain), as LLM-Shearing writes them. Convert the data."
        )
    compressed = entry.get("zip_data")
    return MdsShard(
        raw=_file(entry["raw_data"], index),
        compressed=_file(compressed, index) if compressed else None,
        compression=(entry.get("compression") or "").partition(":")[0],
        samples=int(entry["samples"]),
        columns=tuple((name, None if size is None else int(size)) for name, _, size in columns),
        folder_name=index.parent.name,
    )


def _file(entry: dict[str, Any], index: Path) -> _File:
    name = PurePosixPath(entry["basename"])
    if name.is_absolute() or ".." in name.parts:
        raise MdsError(
            f"from_mds: {index} names the shard {str(name)!r}, outside of its folder: it is refused."
        )
    return _File(path=index.parent / name, bytes=int(entry["bytes"]), hashes=dict(entry.get("hashes") or {}))


def _read(file: _File) -> bytes:
    if not file.path.is_file():
        raise _damaged(file.path, "the shard is missing")
    content = file.path.read_bytes()
    if len(content) != file.bytes:
        raise _damaged(file.path, f"it has {len(content):,} bytes instead of {file.bytes:,}")
    for algorithm, expected in file.hashes.items():  # of some algorithms, only mosaicml-streaming knows
        known = algorithm in hashlib.algorithms_guaranteed and not algorithm.startswith("shake")
        if known and hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != expected:
            raise _damaged(file.path, f"its {algorithm} is not that of the index")
    return content


def _decompressed(content: bytes, compression: str, path: Path) -> bytes:
    try:
        if compression == "zstd":
            return _zstd(content)
        if compression in ("gz", "bz2"):
            return gzip.decompress(content) if compression == "gz" else bz2.decompress(content)
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(path, f"it cannot be decompressed ({error})") from error
    raise MdsError(
        f"from_mds: {path} is compressed with {compression!r}; zstd, gz and bz2 are read. Convert it."
    )


def _zstd(content: bytes) -> bytes:
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise MdsError(
            "from_mds: the shards are compressed with zstd, which is read by another package. "
            "Run `pip install shear-lit[mds]`."
        ) from error
    try:
        with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as stream:
            return bytes(stream.read())
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _damaged(path: Path, what: str) -> MdsError:
    return MdsError(f"from_mds: {path}: {what}: the MDS data is damaged or half-copied. Copy it again.")
