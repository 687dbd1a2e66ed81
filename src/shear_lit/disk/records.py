"""Records from files: JSON held to the types of a dataclass before anything is computed with it.

Worker processes import this module: it needs the standard library alone.
"""

import math
import os
import reprlib
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from shear_lit.disk.reading import SMALL_FILE_BYTES, parse_json, read_small

MOST_VALUES = 4_000_000
"""Values that such a file holds at most: brackets of a few bytes would each take a hundred in memory."""

STORED = "stored"
"""In the ``metadata`` of a field: false, if files do not have it."""

_LARGEST = (1 << 63) - 1

Record = TypeVar("Record")
Check = Callable[[Any], Any]


def read_values(path: str | os.PathLike[str], *, limit: int = SMALL_FILE_BYTES) -> Any:
    """What a JSON file of at most ``limit`` bytes and ``MOST_VALUES`` values holds.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe or a device.
        ValueError: it is no JSON, or has more values.
    """
    return parse_values(read_small(path, limit=limit))


def parse_values(content: bytes) -> Any:
    """What JSON says, if it has at most ``MOST_VALUES`` values.

    Raises:
        ValueError: it is no JSON, or has more.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES:,} values")
    return parse_json(content)


def record_of(kind: type[Record], value: Any) -> Record:
    """``value``, what a file holds, as a ``kind``: a dataclass, or a type such as ``dict[str, list[int]]``.

    Whole numbers are counts: from 0 to 2^63 - 1, and neither true nor 1.0. Other numbers are finite.

    Raises:
        ValueError: a key is missing or not known, or a value is of another type; it says which.
    """
    try:
        return cast(Record, _checker(cast(Any, kind))(value))
    except _WrongError as error:
        raise ValueError(f"{error.place or 'it'} {error}") from None


def shown(value: object) -> str:
    """``value`` in a message: on one line, and not all of it where it is long."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than some thousand digits
        return "a number of thousands of digits"


def one_line(error: BaseException) -> str:
    """What a library says is wrong, on one line, and not all of it where it is long."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return said if len(said) <= 300 else f"{said[:300]}…"


class _WrongError(ValueError):
    def __init__(self, value: object, expected: str) -> None:
        super().__init__(f"is {shown(value)}: {expected} is expected")
        self.place = ""


def _inside(name: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except _WrongError as error:
        joint = "" if error.place.startswith("[") or not error.place else "."
        error.place = f"{name}{joint}{error.place}"
        raise


@lru_cache
def _checker(expected: Any) -> Check:
    if expected in _PLAIN:
        return _PLAIN[expected]
    if is_dataclass(expected):
        return _dataclass(expected)
    origin, inner = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return _optional([_checker(one) for one in inner if one is not types.NoneType])
    if origin is dict:
        return _mapping(_checker(inner[1]))
    assert origin in (list, tuple), expected
    if origin is tuple and inner[-1] is not ...:
        return _fixed([_checker(one) for one in inner])
    return _sequence(origin, _checker(inner[0]))


def _dataclass(kind: Any) -> Check:
    hints = get_type_hints(kind)
    stored = [one for one in fields(kind) if one.metadata.get(STORED, True)]
    checks = {one.name: _checker(hints[one.name]) for one in stored}
    needed = {one.name for one in stored if one.default is MISSING and one.default_factory is MISSING}

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _WrongError(value, "a group of keys")
        if not checks.keys() >= value.keys():
            raise _WrongError(sorted(map(str, value.keys() - checks.keys()))[0], "a known key")
        if not needed <= value.keys():
            raise _WrongError("absent", "the key " + sorted(needed - value.keys())[0])
        return kind(**{name: _inside(name, checks[name], part) for name, part in value.items()})

    return check


def _optional(checks: list[Check]) -> Check:
    (check,) = checks  # of several types, none would be the one whose message is given
    return lambda value: None if value is None else check(value)


def _mapping(check: Check) -> Check:
    def of(value: Any) -> Any:
        if type(value) is not dict:
            raise _WrongError(value, "a group of keys")
        return {_text(name): _inside(_shown_key(_text(name)), check, part) for name, part in value.items()}

    return of


def _shown_key(name: str) -> str:
    return name if name.isidentifier() else shown(name)


def _sequence(kind: Callable[[Any], Any], check: Check) -> Check:
    def of(value: Any) -> Any:
        if type(value) is not list:
            raise _WrongError(value, "a list")
        return kind(_inside(f"[{number}]", check, part) for number, part in enumerate(value))

    return of


def _fixed(checks: list[Check]) -> Check:
    def of(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise _WrongError(value, f"a list of {len(checks)}")
        return tuple(check(part) for check, part in zip(checks, value, strict=True))

    return of


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise _WrongError(value, "a whole number from 0")
    return value


def _number(value: Any) -> float:
    if type(value) is int and abs(value) <= _LARGEST:
        return value
    if type(value) is not float or not math.isfinite(value):
        raise _WrongError(value, "a finite number")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or not (value.isascii() or _encodes(value)):
        raise _WrongError(value, "text")
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write
        return False
    return True


def _switch(value: Any) -> bool:
    if type(value) is not bool:
        raise _WrongError(value, "true or false")
    return value


_PLAIN: dict[Any, Check] = {Any: lambda value: value, int: _count, float: _number, str: _text, bool: _switch}
