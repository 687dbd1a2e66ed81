"""Small files that come from elsewhere, read within a limit."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

SMALL_FILE_BYTES = 64 * 1024**2
"""The most that is read of a file that describes others: a manifest, an index, a config, a log."""


class UnreadableFile(OSError):
    """A file that is not read although it is there: it is too large, or not a regular file."""


def read_small(path: str | os.PathLike[str], *, limit: int = SMALL_FILE_BYTES) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; no more than that is ever in memory.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe or a device, at which a reader would wait for ever; its
            ``strerror`` says which.
    """
    # Without O_NONBLOCK the opening of a pipe waits for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123  (an open descriptor has no path)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise UnreadableFile(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
        content = file.read(limit + 1)
    if len(content) > limit:
        size = Path(path).stat().st_size
        raise UnreadableFile(
            errno.EFBIG, f"it has {size:,} bytes, and such a file has at most {limit:,}", str(path)
        )
    return content


def read_json(path: str | os.PathLike[str], *, limit: int = SMALL_FILE_BYTES) -> Any:
    """What a small JSON file holds.

    Raises:
        OSError: as ``read_small``.
        ValueError: it is no JSON.
    """
    return parse_json(read_small(path, limit=limit))


def parse_json(content: bytes | str) -> Any:
    """What JSON says, held to its standard: UTF-8, and no object that has a key twice.

    Raises:
        ValueError: it is no JSON, or is nested so deeply that no parser of Python's reads it.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return entries


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which let a file of a few lines stand for gigabytes, and without a key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "an alias (*name) has no place here", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  (yaml's)
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is there twice", node.start_mark)
        return mapping


def read_yaml(path: str | os.PathLike[str], *, limit: int = SMALL_FILE_BYTES) -> Any:
    """What a small YAML file holds, in plain types.

    Raises:
        OSError: as ``read_small``.
        ValueError: it is no YAML, has a key twice, or uses aliases.
    """
    content = read_small(path, limit=limit).decode("utf-8")
    try:
        return yaml.load(content, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or "it is nested too deeply") from error
