"""Which inputs an address in S3 means: an object, all below a prefix, or a glob."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import translate
from pathlib import PurePosixPath

from shear_lit.data.errors import DataError
from shear_lit.data.storage.attempts import StorageError
from shear_lit.data.storage.s3 import S3, Stored, listed, problem, split_address
from shear_lit.data.text.file_names import READ, kind_of_file
from shear_lit.data.text.kind import Source

_MAGIC = re.compile(r"[*?\[]")
_SEVERAL = (".bin", ".idx")  # which are files only together


def stored_sources(domain: str, pattern: str, kind: str | None, without: str = "") -> list[Source]:
    """The inputs that ``pattern`` means, of ``kind`` or of that which their names say.

    Args:
        domain: Their domain.
        pattern: An address: of an object, of what is below a prefix, or with ``*``, ``?``, ``[...]`` and ``**``.
        kind: ``uint16`` or ``uint32``, where the user says so.
        without: An address below which nothing is taken: the output.

    Raises:
        DataError: none is there, one is of no kind that is read, or the storage refuses.
    """
    key, (bucket, name) = f"domains.{domain}", split_address(pattern)
    try:
        found = list(_found(bucket, name))
    except StorageError as error:
        raise problem(error, pattern, key) from error
    kept = [one for one in found if not without or not f"{S3}{bucket}/{one.key}".startswith(f"{without}/")]
    if not kept:
        what = "nothing but objects of the output" if found else "no object"
        raise DataError(
            f"{pattern!r}: {what} matches it: an object, a prefix that ends with '/', or a glob is expected. "
            "Correct it.",
            key=key,
        )
    return [_source(domain, bucket, one, kind) for one in kept]


def _found(bucket: str, name: str) -> Iterator[Stored]:
    """The objects that a name or a glob means, by name; what stands for a folder is none."""
    magic = _MAGIC.search(name)
    for one in sorted(listed(bucket, name[: magic.start()] if magic else name), key=lambda one: one.key):
        if one.key.endswith("/"):
            continue
        below = not name or one.key.startswith(f"{name.removesuffix('/')}/")
        if _matches(one.key.split("/"), name.split("/")) if magic else one.key == name or below:
            yield one


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a name match those of a glob, as they do of a path; ``**`` is any number of them."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        if len(pattern) == 1:
            return not any(part.startswith(".") for part in parts)
        return _matches(parts, pattern[1:]) or (not parts[0].startswith(".") and _matches(parts[1:], pattern))
    is_hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    return (
        not is_hidden and bool(re.match(translate(pattern[0]), parts[0])) and _matches(parts[1:], pattern[1:])
    )


def _source(domain: str, bucket: str, one: Stored, kind: str | None) -> Source:
    name, path = f"{S3}{bucket}/{one.key}", PurePosixPath(one.key)
    if kind is None and path.suffix.lower() not in _SEVERAL:
        kind = kind_of_file(path)
    if kind is None:
        raise DataError(
            f"{name!r} is of no kind that is read from S3: {READ.partition('; tokens are')[0]}; tokens are .npy, or "
            "named uint16:ADDRESS or uint32:ADDRESS. Convert it, or narrow the glob.",
            key=f"domains.{domain}",
        )
    return Source(domain=domain, name=name, kind=kind, bytes=one.bytes, version=one.version)
