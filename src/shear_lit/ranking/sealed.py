"""Small safetensors files that carry a checksum of all their bytes, their header's included.

Under ``sha256`` in the header stands the SHA-256 of the file as it is with zeros in that place. Programs that know
nothing of it read such a file as any other.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from shear_lit.disk.names import is_sha256
from shear_lit.disk.reading import parse_json, read_small

CHECKSUM = "sha256"
"""The entry of the header that holds the checksum."""
FILE_BYTES, HEADER_BYTES = 512 * 1024**2, 1024**2
"""The most that such a file and its header may have; the gates of a model of 405 billion parameters have a quarter."""

_log = logging.getLogger(__name__)
_PLACE = "0" * 64


def sealed_file(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file with the entries of ``header`` and a checksum."""
    content = safetensors_bytes(dict(tensors), metadata={**header, CHECKSUM: _PLACE})
    assert content.count(_entry(_PLACE)) == 1
    return _with_checksum(content, _PLACE, hashlib.sha256(content).hexdigest())


def read_sealed_file(path: Path, entries: set[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a file that ``sealed_file`` made, or of an older one that has ``entries`` only.

    Args:
        path: The file.
        entries: The names in its header beside the checksum's; with others, what looks like a file without a checksum
            could be one whose checksum was damaged.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, was changed, or has another header.
    """
    size = path.stat().st_size
    if size > FILE_BYTES:
        raise ValueError(f"it has {size:,} bytes, and such a file has at most {FILE_BYTES:,}")
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
    if header_size > min(HEADER_BYTES, size):
        raise ValueError(f"its header claims {header_size:,} bytes, and one has at most {HEADER_BYTES:,}")
    content = read_small(path, limit=FILE_BYTES)
    described: Any = parse_json(content[8 : 8 + header_size])
    header = described.get("__metadata__") if isinstance(described, dict) else None
    if not isinstance(header, dict) or header.keys() - {CHECKSUM} != entries:
        raise ValueError(f"its header does not have the entries {', '.join(sorted(entries))}, and no others")
    _check(path, content, header.pop(CHECKSUM, None))
    try:
        return tensors_of(content), cast(dict[str, str], header)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _check(path: Path, content: bytes, checksum: object) -> None:
    if checksum is None:
        _log.info("%s carries no checksum, which files of this version do", path)
        return
    if not is_sha256(checksum):
        raise ValueError(f"its {CHECKSUM} is no checksum")
    unsealed = _with_checksum(content, str(checksum), _PLACE)
    if hashlib.sha256(unsealed).hexdigest() != checksum:
        raise ValueError("its bytes are not those that were written (their checksum differs)")


def _with_checksum(content: bytes, old: str, new: str) -> bytes:
    """The file with another checksum in its header, which stands before anything of the tensors."""
    return content.replace(_entry(old), _entry(new), 1)


def _entry(checksum: str) -> bytes:
    return f'"{CHECKSUM}":"{checksum}"'.encode()
