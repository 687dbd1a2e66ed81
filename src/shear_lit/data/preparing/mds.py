"""Reading MDS folders of packed tokens, as LLM-Shearing wrote them with mosaicml-streaming.

The layout is documented by that library; a shard is ``samples`` (uint32), ``samples + 1`` offsets in the file (uint32),
the columns as JSON, and the samples. A sample is the sizes (uint32) of its columns of no fixed size, and the columns.

The library itself is not used: its last release, 0.13, demands transformers < 5 and numpy < 2.2, and this package
transformers 5, so that nothing installs both. Nothing is unpickled: of the encodings only bytes and text are read.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.errors import DataError
from shear_lit.data.text.compression import opened
from shear_lit.disk.names import expanded, is_elsewhere, is_plain_name, leads_outside
from shear_lit.disk.reading import read_small
from shear_lit.disk.records import Record, read_values, record_of, shown

TOKENS, DOMAIN = "tokens", "set"
"""The columns that are read: bytes of uint16, and the domain's name."""
MERGED = "eval_merge"
"""The folder in which LLM-Shearing repeats the samples of the folders beside it."""

MOST_SHARD_BYTES = 1 << 29
"""A shard is read whole, and has at most so many bytes; LLM-Shearing's have an eighth of that."""

_INDEX, _MOST_COLUMNS = "index.json", 100
_TOKEN = np.dtype("<u2")
_SIZE = np.dtype("<u4")
_SUFFIXES = {"gz": (".gz",), "bz2": (".bz2",), "zstd": (".zstd", ".zst")}


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
        _read(self.compressed)  # which holds it against the index
        content = _decompressed(self.compressed.path, self.compression, self.raw.bytes)
        if len(content) != self.raw.bytes:
            raise _damaged(self.compressed.path, f"what it holds does not have {self.raw.bytes:,} bytes")
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
    root = expanded(folder)
    try:
        indices = list(_indices(root, set()))
    except OSError as error:
        raise _error(
            f"{str(root)!r} cannot be read ({error.strerror or error}). Correct the path."
        ) from error
    if not indices:
        raise _error(f"{str(root)!r} holds no {_INDEX}, nor do the folders in it: no MDS. Correct the path.")
    return [shard for index in indices for shard in _shards_of(index)]


def _indices(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if folder.resolve() in seen:  # links may lead round in a circle
        return
    seen.add(folder.resolve())
    if (folder / _INDEX).is_file():
        yield folder / _INDEX
    elif (folder / MERGED / _INDEX).is_file():
        yield folder / MERGED / _INDEX  # and not the folders beside it: their samples are in there
    elif folder.is_dir():
        for inner in sorted(folder.iterdir()):
            yield from _indices(inner, seen)


@dataclass(frozen=True, kw_only=True)
class _FileEntry:
    """What an index says of a file; it may say more, as it may of a shard."""

    basename: str
    bytes: int
    hashes: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class _ShardEntry:
    """What an index says of a shard."""

    column_names: list[str]
    column_encodings: list[str]
    column_sizes: list[int | None]
    raw_data: dict[str, Any]
    zip_data: dict[str, Any] | None = None
    compression: str | None = None
    samples: int


def _shards_of(index: Path) -> list[MdsShard]:
    if index.is_symlink() and is_elsewhere(index, index.parent):
        raise _error(f"{str(index)!r} is a link that leads out of its folder. Copy the file there.")
    try:
        shards = read_values(index)["shards"]
        if not isinstance(shards, list):
            raise TypeError(f"its shards are {shown(shards)}")
        return [_shard(entry, index) for entry in shards]
    except MdsError:
        raise
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise _error(
            f"{str(index)!r} cannot be read as an index of MDS shards ({shown(error)}). Copy it again."
        ) from error


def _known(kind: type[Record], entry: Any) -> Record:
    if not isinstance(entry, dict):
        raise TypeError(f"{shown(entry)} is no group of keys")
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return record_of(kind, {name: value for name, value in entry.items() if name in names})


def _shard(content: Any, index: Path) -> MdsShard:
    if not isinstance(content, dict) or content.get("format") != "mds" or content.get("version") != 2:
        found = (
            [shown(content.get(key)) for key in ("format", "version")]
            if isinstance(content, dict)
            else ["", ""]
        )
        raise _error(
            f"{str(index)!r}: format {found[0]}, version {found[1]}: MDS of version 2 is read. "
            "Convert it with mosaicml-streaming."
        )
    entry = _known(_ShardEntry, content)
    columns = list(zip(entry.column_names, entry.column_encodings, entry.column_sizes, strict=True))
    if len(columns) > _MOST_COLUMNS or len({name for name, _, _ in columns}) != len(columns):
        raise ValueError(f"it has {len(columns)} columns, or a column twice")
    for name, encoding, _ in columns:
        if encoding == "pkl":
            raise _error(
                f"{str(index)!r}: column {shown(name)} is pickled, and unpickling runs whatever code the file holds. "
                "Write the data again without that column."
            )
    wanted = {name: encoding for name, encoding, _ in columns}
    if wanted.get(TOKENS) != "bytes" or wanted.get(DOMAIN, "str") != "str":
        raise _error(
            f"{str(index)!r} has the columns {shown(wanted)}: {TOKENS!r} must be 'bytes' (token ids as uint16) and "
            f"{DOMAIN!r}, if there is one, 'str' (the domain), as LLM-Shearing writes them. Convert the data."
        )
    return MdsShard(
        raw=_file(entry.raw_data, index),
        compressed=_file(entry.zip_data, index) if entry.zip_data else None,
        compression=(entry.compression or "").partition(":")[0],
        samples=entry.samples,
        columns=tuple((name, size) for name, _, size in columns),
        folder_name=index.parent.name,
    )


def _file(content: Any, index: Path) -> _File:
    entry = _known(_FileEntry, content)
    path = index.parent / entry.basename
    if not is_plain_name(entry.basename) or leads_outside(path, index.parent):
        raise _error(
            f"{str(index)!r} names the shard {shown(entry.basename)}, outside of its folder: it is refused."
        )
    if entry.bytes > MOST_SHARD_BYTES:
        raise _error(
            f"{str(index)!r}: {entry.basename} has {entry.bytes:,} bytes, and shards are read whole, up to "
            f"{MOST_SHARD_BYTES:,} bytes. Write the data again with a smaller size_limit."
        )
    return _File(path=path, bytes=entry.bytes, hashes=entry.hashes or {})


def _read(file: _File) -> bytes:
    if not file.path.is_file():
        raise _damaged(file.path, "the shard is missing")
    try:
        content = read_small(file.path, limit=file.bytes)
    except OSError as error:
        raise _damaged(
            file.path, f"it has not the {file.bytes:,} bytes of the index ({error.strerror})"
        ) from error
    if len(content) != file.bytes:
        raise _damaged(file.path, f"it has {len(content):,} bytes instead of {file.bytes:,}")
    for algorithm, expected in file.hashes.items():  # of some algorithms, only mosaicml-streaming knows
        known = algorithm in hashlib.algorithms_guaranteed and not algorithm.startswith("shake")
        if known and hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != expected:
            raise _damaged(file.path, f"its {algorithm} is not that of the index")
    return content


def _decompressed(path: Path, compression: str, size: int) -> bytes:
    """The first ``size`` bytes that a file holds, and one more if there are more."""
    if compression not in _SUFFIXES or path.suffix not in _SUFFIXES[compression]:
        raise _error(
            f"{str(path)!r} is compressed with {shown(compression)}; zstd, gz and bz2 are read. Convert it."
        )
    try:
        with opened(str(path)) as (_, content):
            return content.read(size + 1)
    except ImportError as error:
        raise _error(
            "the shards are compressed with zstd, which is read by another package. Run `pip install shear-lit[mds]`."
        ) from error
    except DataError as error:
        raise _damaged(path, f"it cannot be decompressed ({error.__cause__})") from error


def _error(message: str) -> MdsError:
    return MdsError(message, key="from_mds")


def _damaged(path: Path, what: str) -> MdsError:
    return _error(f"{str(path)!r}: {what}: the MDS data is damaged or half-copied. Copy it again.")
