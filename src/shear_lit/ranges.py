"""Numbers of settings with their ranges, which the command line holds to and its help shows.

To a type checker, and where a setting is given in Python, each is a plain number.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from jsonargparse import typing as ranges

if TYPE_CHECKING:
    Count = int
    CountFrom0 = int
    CountFrom2 = int
    WorkerCount = int
    ChunkBytes = int
    UnitBytes = int
    Fraction = float
    PositiveFraction = float
    PositiveNumber = float
    OpenFraction = float
    NumberFrom0 = float
    KeptCount = int
else:
    Count, CountFrom0 = ranges.PositiveInt, ranges.NonNegativeInt
    CountFrom2 = ranges.restricted_number_type("IntFrom2", int, (">=", 2))
    WorkerCount = ranges.restricted_number_type("IntFrom1To1024", int, [(">=", 1), ("<=", 1024)])
    ChunkBytes = ranges.restricted_number_type("IntFrom1To2GiB", int, [(">=", 1), ("<=", 1 << 31)])
    UnitBytes = ranges.restricted_number_type("IntFrom1To1GiB", int, [(">=", 1), ("<=", 1 << 30)])
    Fraction, PositiveNumber = ranges.ClosedUnitInterval, ranges.PositiveFloat
    NumberFrom0 = ranges.NonNegativeFloat
    OpenFraction = ranges.OpenUnitInterval
    PositiveFraction = ranges.restricted_number_type("FloatAbove0To1", float, [(">", 0), ("<=", 1)])
    KeptCount = ranges.restricted_number_type("IntFrom1OrMinus1", int, [(">=", 1), ("==", -1)], join="or")


def as_plain_numbers(settings: Any) -> None:
    """Make the numbers of a frozen dataclass plain again: a range is a class, and checkpoints hold no such one."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        for kind in (int, float):
            if isinstance(value, kind) and type(value) not in (kind, bool):
                object.__setattr__(settings, field.name, kind(value))
