"""Directories of litdata chunks that its ``TokensLoader`` reads: tokens one after the other behind a small header."""

import os
import struct
from pathlib import Path
from typing import Any

from shear_lit.data.text.kinds.token_runs import Run, Span
from shear_lit.disk.names import is_plain_name

INDEX = "index.json"
"""The file that makes a directory such an input."""

# What litdata calls the types of tensors and of arrays, by number; there are others, which hold no tokens.
_TENSORS = "11 uint8 13 int16 14 int16 15 int32 16 int32 17 int64 18 int64 20 uint16"
_ARRAYS = "1 int16 2 int32 3 int64 4 uint8 5 uint16 6 uint32 7 uint64"
_TYPES = {
    f"{serializer}:{number}": name
    for serializer, numbered in (("no_header_tensor", _TENSORS), ("no_header_numpy", _ARRAYS))
    for number, name in zip(numbered.split()[::2], numbered.split()[1::2], strict=True)
}


def litdata_run(name: str) -> Run:
    """The tokens of a directory.

    Raises:
        OSError: a file cannot be read.
        ValueError: its index describes no plain chunks of tokens, or one is not what the index says.
    """
    import numpy as np  # only where tokens are read

    from shear_lit.disk.records import read_values  # which brings a parser of YAML along

    index = read_values(Path(name) / INDEX)
    config = index.get("config") if isinstance(index, dict) else None
    chunks = index.get("chunks") if isinstance(index, dict) else None
    if not isinstance(config, dict) or not isinstance(chunks, list):
        raise ValueError(f"its {INDEX} is none of litdata")
    stored = np.dtype(_token_type(config)).newbyteorder("<")
    spans = tuple(_span(Path(name), chunk, stored.itemsize) for chunk in chunks)
    return Run(token_type=stored, spans=spans)


def litdata_bytes(name: str) -> int:
    """The bytes of the tokens of a directory; see ``litdata_run``."""
    run = litdata_run(name)
    return int(run.count * run.token_type.itemsize)


def _token_type(config: dict[str, Any]) -> str:
    for key in ("compression", "encryption"):
        if config.get(key):
            raise ValueError(f"its chunks have {key} {str(config[key])[:20]!r}, which is not read")
    form = config.get("data_format")
    name = form[0] if isinstance(form, list) and len(form) == 1 else None
    if not isinstance(name, str) or name not in _TYPES:
        raise ValueError(f"its data_format {str(form)[:40]!r} is none of tokens")
    return _TYPES[name]


def _span(directory: Path, chunk: Any, token_bytes: int) -> Span:
    file = chunk.get("filename") if isinstance(chunk, dict) else None
    if not is_plain_name(file):
        raise ValueError(f"its {INDEX} names a chunk {str(file)[:40]!r}, which is no file in it")
    path = directory / str(file)
    with path.open("rb") as content:
        size, header = os.fstat(content.fileno()).st_size, content.read(4)
    items = struct.unpack("<I", header)[0] if len(header) == 4 else 1 << 32
    offset = 4 * (items + 2)  # the number of items, and where each begins and the last one ends
    if offset > size or (size - offset) % token_bytes:
        raise ValueError(f"{file} has {size:,} bytes, which are not those of {items:,} items of tokens")
    return Span(path=str(path), offset=offset, count=(size - offset) // token_bytes)
