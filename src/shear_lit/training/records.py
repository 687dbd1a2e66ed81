"""What ``torch.save`` wrote, checked before it is read: a zip of stored parts, each with a CRC-32.

A file is one such record, and a file of shards has one behind the other. torch writes the checksums, and when it reads
it looks at none of them; nor does it compare the sizes that its pickle claims with those of the parts.
"""

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shear_lit.disk.reading import SMALL_FILE_BYTES
from shear_lit.training.pickles import StoredNumbers, stored_numbers

PICKLE_BYTES = 32 * 1024**2
"""The most that the pickle of a record may have: it describes numbers, and holds none."""

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_LARGE = 0xFFFFFFFF
_PIECE = 16 * 1024**2
_PICKLE, _NUMBERS = "data.pkl", "data/"


class DamagedRecord(ValueError):
    """Bytes that are not what ``torch.save`` wrote."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One stored part of a record."""

    name: str
    """Without the folder that torch puts around all of them."""
    header: int
    """Where what is said of it begins."""
    start: int
    """Where its bytes begin."""
    size: int
    """Their number."""
    crc: int
    """Their checksum."""


def mapped(path: Path) -> memoryview:
    """The content of a file, of which nothing is read before it is looked at.

    Raises:
        OSError: it cannot be read.
        DamagedRecord: it is empty.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise DamagedRecord(f"{path.name} is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def load_file(path: Path, *, numbers: bool = True) -> Any:
    """What ``torch.save`` wrote to ``path``: numbers and plain values, the numbers mapped from the file.

    Args:
        path: The file.
        numbers: Whether the checksums of the tensors' numbers are compared, for which all of them are read.

    Raises:
        DamagedRecord, pickle.UnpicklingError and what torch raises: it holds something else, or was changed.
    """
    check_file(path, numbers=numbers)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def check_file(path: Path, *, numbers: bool = True) -> None:
    """Compare a file with its checksums, and what it claims with what it has; as ``load_file`` does first."""
    try:
        check_record(mapped(path), numbers=numbers)
    except DamagedRecord as error:
        raise DamagedRecord(f"{path.name}: {error}") from error


def check_record(content: memoryview, *, numbers: bool = True) -> dict[str, StoredNumbers]:
    """The numbers of a record by their keys, after all of its parts were compared with their checksums.

    Raises:
        DamagedRecord, pickle.UnpicklingError: a part was changed, or the pickle claims other sizes than there are.
    """
    parts = _parts(content)
    for part in parts.values():
        if numbers or not part.name.startswith(_NUMBERS):
            _check_bytes(content, part)
    if _PICKLE not in parts or parts[_PICKLE].size > PICKLE_BYTES:
        raise DamagedRecord(f"its {_PICKLE} is missing, or has more than {PICKLE_BYTES:,} bytes")
    start = parts[_PICKLE].start
    claimed = stored_numbers(bytes(content[start : start + parts[_PICKLE].size]))
    for key, found in claimed.items():
        stored = parts.get(f"{_NUMBERS}{key}")
        if stored is None or stored.size != found.nbytes:
            has = "none" if stored is None else f"{stored.size:,}"
            raise DamagedRecord(f"it claims {found.nbytes:,} bytes of numbers {key!r}, and has {has}")
    return claimed


def _check_bytes(content: memoryview, part: _Part) -> None:
    found, end = 0, part.start + part.size
    for start in range(part.start, end, _PIECE):
        found = zlib.crc32(content[start : min(start + _PIECE, end)], found)
    if found != part.crc:
        raise DamagedRecord(
            f"the bytes of {part.name} are not those that were written (their checksum differs)"
        )


def _parts(content: memoryview) -> dict[str, _Part]:
    """The parts of a zip as torch writes it, by name: stored, none over another, the list of them at the end."""
    first, size, count = _list_of_parts(content)
    parts = sorted(_entries(content, first, size), key=lambda part: part.header)
    after = 0
    for header, end in [*((part.header, part.start + part.size) for part in parts), (first, first)]:
        if header < after:
            raise DamagedRecord("its parts lie over one another, or beyond its end")
        after = end
    names = {part.name: part for part in parts}
    if len(parts) != count or len(names) != count:
        raise DamagedRecord("its list of parts has another number of them, or one twice")
    return names


def _list_of_parts(content: memoryview) -> tuple[int, int, int]:
    """Where the list of parts begins, its bytes, and the number of parts."""
    end = len(content) - _END.size
    if end < 0:
        raise DamagedRecord("it is too short")
    signature, _, _, _, count, size, first, comment = _END.unpack_from(content, end)
    if signature != b"PK\5\6" or comment:
        raise DamagedRecord("it does not end as a file of torch.save does")
    at = end - _LOCATOR.size - _END64.size
    if at >= 0 and _LOCATOR.unpack_from(content, at + _END64.size)[0] == b"PK\6\7":
        if _LOCATOR.unpack_from(content, at + _END64.size)[2] != at:
            raise DamagedRecord("it does not end as a file of torch.save does")
        signature, _, _, _, _, _, _, count, size, first = _END64.unpack_from(content, at)
        if signature != b"PK\6\6":
            raise DamagedRecord("it does not end as a file of torch.save does")
        end = at
    if first + size != end or size > SMALL_FILE_BYTES:
        raise DamagedRecord("its list of parts does not lie at its end, or is too long")
    return first, size, count


def _entries(content: memoryview, at: int, size: int) -> Iterator[_Part]:
    """The entries of the list of parts."""
    end = at + size
    while at + _ENTRY.size <= end:
        entry = _ENTRY.unpack_from(content, at)
        crc, stored, whole, name_size, extra_size, comment_size = entry[7:13]
        name = bytes(content[at + _ENTRY.size : at + _ENTRY.size + name_size])
        extra = bytes(content[at + _ENTRY.size + name_size :][:extra_size])
        at += _ENTRY.size + name_size + extra_size + comment_size
        if entry[0] != b"PK\1\2" or at > end:
            raise DamagedRecord("its list of parts is damaged")
        whole, stored, header = _large_values([whole, stored, entry[16]], extra)
        if entry[4] != 0 or entry[3] & 1 or stored != whole:
            raise DamagedRecord("a part of it is compressed or encrypted, which torch.save never does")
        start = _start(content, header, entry, name)
        yield _Part(name=_inner(name), header=header, start=start, size=whole, crc=crc)
    if at != end:
        raise DamagedRecord("its list of parts is damaged")


def _large_values(values: list[int], extra: bytes) -> list[int]:
    """Sizes and places, of which those beyond 32 bits stand in an extra field."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == 1:
            large = list(struct.unpack_from(f"<{min(size, len(extra) - 4) // 8}Q", extra, 4))
            return [large.pop(0) if value == _LARGE and large else value for value in values]
        extra = extra[4 + size :]
    return values


def _start(content: memoryview, header: int, entry: tuple[Any, ...], name: bytes) -> int:
    """Where the bytes of a part begin, whose own header has to say what the list says of it."""
    if header + _HEADER.size > len(content):
        raise DamagedRecord("its parts lie over one another, or beyond its end")
    local = _HEADER.unpack_from(content, header)
    at = header + _HEADER.size
    if local[0] != b"PK\3\4" or local[1:6] != entry[2:7] or bytes(content[at : at + local[9]]) != name:
        raise DamagedRecord("the header of a part is not what the list of parts says of it")
    return int(at + local[9] + local[10])


def _inner(name: bytes) -> str:
    """The name of a part inside the folder that torch puts around all of them."""
    return name.decode("utf-8", "replace").partition("/")[2]
