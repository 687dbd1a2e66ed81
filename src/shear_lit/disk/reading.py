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

MOST_VALUES = 100_000
"""The most values that a YAML file may stand for."""

MOST_NESTED = 100
"""The most brackets that may be open at one place of a YAML file."""

_TOO_DEEP = "it is nested too deeply"


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
        found = json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:  # half of a pair stands for no character, and cannot be written again
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    except UnicodeEncodeError as error:
        raise ValueError("it has half of a surrogate pair, which is no character") from error
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return entries


class _PlainLoader(yaml.SafeLoader):
    """YAML in plain types, without a key twice."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        # The scanner looks a thousand characters ahead, and at each bracket goes through all that are open.
        if self.flow_level == MOST_NESTED:
            raise ValueError(_TOO_DEEP)
        super().fetch_flow_collection_start(TokenClass)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  (yaml's)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: str | os.PathLike[str], *, limit: int = SMALL_FILE_BYTES) -> Any:
    """What a small YAML file holds, in plain types.

    Raises:
        OSError: as ``read_small``.
        ValueError: it is no YAML, has a key twice, or stands for too much: aliases let a few lines be gigabytes.
    """
    return parse_yaml(read_small(path, limit=limit).decode("utf-8"))


def parse_yaml(content: str) -> Any:
    """What YAML says, in plain types.

    Raises:
        ValueError: as ``read_yaml``.
    """
    try:
        found = yaml.load(content, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if not _is_bounded(found):
        raise ValueError(f"its aliases (*name) stand for more than {MOST_VALUES:,} values")
    return found


def _is_bounded(content: Any) -> bool:
    """Whether it has at most ``MOST_VALUES`` values where each alias counts as what it stands for."""
    waiting, values = [content], 0
    while waiting and values <= MOST_VALUES:
        value = waiting.pop()
        values += 1
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return not waiting
