"""What is said of an input that cannot be used at all."""

from collections.abc import Iterable

from shear_lit.data.errors import DataError


def unreadable(path: object, error: Exception) -> DataError:
    """What to say of an input that cannot be read."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return DataError(
        f"{str(path)!r} cannot be read ({reason}): it is truncated, damaged, or not what its name says. "
        "Copy it again, or take it out of the list; what has been tokenised is kept for the next run.",
        key="domains",
    )


def check_fields(name: str, text_field: str, fields: Iterable[str]) -> None:
    """Refuse a text field that an input does not have.

    Raises:
        DataError: ``text_field`` is none of ``fields``.
    """
    if text_field not in (found := list(fields)):
        raise DataError(
            f"{text_field!r}: {name!r} has no such field; it has {', '.join(map(repr, found)) or 'none'}. "
            "Use the one that holds the documents.",
            key="text_field",
        )


def no_text_column(name: str, text_field: str, holds: object) -> DataError:
    """What to say of a column that holds something other than text."""
    return DataError(
        f"{text_field!r}: the field of {name!r} holds {holds}, no text. Use the one that holds the documents.",
        key="text_field",
    )
