"""Cells of tables, as Arrow has them."""

from typing import Any

from shear_lit.data.text.documents import TOO_LARGE, text_of_bytes

_TEXT = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def text_of_cell(content: bytes | None, no_text: str, limit: int) -> tuple[str, str]:
    """The text of a cell of a table, or an empty one and the reason why it has none; ``no_text`` where it is null."""
    if content is None:
        return "", no_text
    return ("", TOO_LARGE) if len(content) > limit else text_of_bytes(content)


def is_text(found: Any) -> bool:
    """Whether a column of this type may hold text: bytes may, as some programs write text."""
    name = str(found).removeprefix("dictionary<values=").partition(",")[0]
    return name in _TEXT


def binary(column: Any) -> Any:
    """A column of text as bytes, which nobody has checked to be UTF-8."""
    import pyarrow as arrow  # there is a column: it is imported already

    if isinstance(column, arrow.DictionaryArray):
        column = column.dictionary_decode()
    return column.cast(arrow.large_binary())
