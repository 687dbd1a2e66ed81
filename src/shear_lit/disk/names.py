"""Names and hashes in files from elsewhere, held to what they may be before anything is looked up by them."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

# Where newer hub clients keep a file that several repositories share, in a cache that says so.
_SHARED, _SHARED_MARKER = "blobs", ".huggingface-shared-blobs"
_REPOSITORIES = ("models--", "datasets--")
_REVISION = re.compile(r"[A-Za-z0-9][\w.+/-]*")
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


def is_elsewhere(path: Path, directory: Path, also: Sequence[Path] = ()) -> bool:
    """Whether a file of a directory that somebody made is a link to what does not belong to it.

    The files of a hub's cache are links into the folder of blobs of their repository, or of the whole cache.
    """
    try:
        return leads_outside(path, directory, (*_blobs(directory.resolve()), *also))
    except (OSError, RuntimeError):  # links in a circle
        return True


def _blobs(directory: Path) -> Iterator[Path]:
    snapshots, repository = directory.parent, directory.parent.parent
    if snapshots.name == "snapshots" and repository.name.startswith(_REPOSITORIES):
        yield repository / "blobs"
        shared = repository.parent / _SHARED
        if (shared / _SHARED_MARKER).is_file():
            yield shared


def expanded(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``~`` or ``~user`` at its beginning as that home directory; a user who is not there stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path's own raises where there is no such user)


def split_revision(source: str) -> tuple[str, str | None]:
    """The name and the revision of ``organisation/model@revision``; of a directory, all of its name and None.

    A revision is a branch, a tag or a commit of a model on the hub.
    """
    with suppress(OSError, ValueError, RuntimeError):  # what can be no directory
        if expanded(source).exists():
            return source, None
    name, _, revision = source.partition("@")
    is_one = _REVISION.fullmatch(revision) and ".." not in revision and not source.startswith((".", "/", "~"))
    return (name, revision) if is_one else (source, None)
