"""What the document of a record is: the text of one field, or what several fields make together.

Worker processes import this module: it needs the standard library alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shear_lit.data.text.cells import binary, is_text, text_of_cell
from shear_lit.data.text.documents import checked, missing, text_of_record
from shear_lit.data.text.refusals import check_fields, no_text_column


class Records(Protocol):
    """How a document is read from a record of each kind of input."""

    def text_of_line(self, line: bytes) -> tuple[str, str]:
        """The document of a line of JSON, or an empty one and the reason why it has none."""

    def text_of_row(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """The document of a row, by the names of its columns, or an empty one and the reason why it has none."""

    def texts_of_batch(self, batch: Any, limit: int) -> Iterator[tuple[str, str]]:
        """Those of the rows of a batch of Arrow's, none of them larger than ``limit`` bytes."""

    def columns(self, name: str, names: Iterable[str]) -> list[str]:
        """Those of the fields ``names`` of the input ``name`` that are to be read.

        Raises:
            DataError: there are none with documents.
        """

    def check_types(self, name: str, schema: Any) -> None:
        """Refuse a table whose columns, by Arrow's ``schema``, hold no documents.

        Raises:
            DataError: they hold something else.
        """

    def check_whole(self, name: str, domain: str) -> None:
        """Refuse an input without records, if it is to have some.

        Raises:
            DataError: a file is one document, or holds tokens.
        """


@dataclass(frozen=True)
class TextField:
    """The text of one field is the document."""

    field: str
    """Its name."""

    def text_of_line(self, line: bytes) -> tuple[str, str]:
        """As in ``Records``."""
        return text_of_record(line, self.field)

    def text_of_row(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """As in ``Records``."""
        return checked(row.get(self.field), missing(self.field))

    def texts_of_batch(self, batch: Any, limit: int) -> Iterator[tuple[str, str]]:
        """As in ``Records``; bytes may be text, and nobody has checked that they are UTF-8."""
        column = binary(batch.column(self.field))
        column.validate(full=True)  # offsets from a file are not trusted before they are followed
        for content in column.to_pylist():
            yield text_of_cell(content, missing(self.field), limit)

    def columns(self, name: str, names: Iterable[str]) -> list[str]:
        """As in ``Records``."""
        check_fields(name, self.field, names)
        return [self.field]

    def check_types(self, name: str, schema: Any) -> None:
        """As in ``Records``."""
        if not is_text(schema.field(self.field).type):
            raise no_text_column(name, self.field, schema.field(self.field).type)

    def check_whole(self, name: str, domain: str) -> None:
        """As in ``Records``: any input has documents of text."""


def chosen(row: Sequence[Any], names: Sequence[str], columns: Iterable[str]) -> dict[str, Any]:
    """Some values of a row by their names; of two columns of one name the first, and of a short row what it has."""
    places = {name: names.index(name) for name in columns}
    return {name: row[place] for name, place in places.items() if place < len(row)}
