"""Names and hashes in files from elsewhere, held to what they may be before anything is looked up by them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(value: object) -> bool:
    """Whether ``value`` is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_plain_name(name: object) -> bool:
    """Whether ``name`` can only be a file or folder directly inside the directory that it is looked up in."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(character in name for character in "/\\\0")
        and len(name.encode("utf-8", "surrogatepass")) <= 255
    )


def leads_outside(path: Path, directory: Path, also: Sequence[Path] = ()) -> bool:
    """Whether ``path``, with its symbolic links followed, lies neither in ``directory`` nor in one of ``also``."""
    real = path.resolve()
    return not any(real.is_relative_to(place.resolve()) for place in (directory, *also))


def expanded(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``~`` or ``~user`` at its beginning as that home directory; a user who is not there stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path's own raises where there is no such user)
