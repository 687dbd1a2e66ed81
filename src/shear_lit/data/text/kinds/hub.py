"""Data sets of the Hugging Face hub: ``hf://name[:configuration[:split]]``."""

from collections.abc import Iterator
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.text.documents import TOO_LARGE
from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.kinds.blocks import Texts, blocks, line_of

HUB = "hf://"
"""What the name of a data set of the hub begins with."""

_MOST_ROWS = 256  # read at once


class HubDataset(Texts):
    """A data set, downloaded and mapped into memory by the hub's own library."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        yield from blocks(source, _lines(source, reading), reading.unit_bytes)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``: its columns are known only once all of it is loaded."""


def open_hub(source: Source) -> Any:
    """The data set that ``source`` names, downloaded and mapped into memory.

    Raises:
        DataError: there is none.
    """
    import datasets  # a large package that is wanted for this kind of input alone

    from shear_lit.disk.records import one_line  # which brings a parser of YAML along

    name, configuration, split = (*source.name.removeprefix(HUB).split(":"), "", "")[:3]
    try:
        return datasets.load_dataset(name, configuration or None, split=split or "train")
    except Exception as error:  # each of its builders has exceptions of its own
        raise DataError(
            f"{source.name!r} cannot be loaded ({one_line(error)}): "
            f"{HUB}name[:configuration[:split]] of a Hugging Face data set is expected. Correct it.",
            key=f"domains.{source.domain}",
        ) from error


def _lines(source: Source, reading: Reading) -> Iterator[tuple[int, bytes]]:
    loaded, records = open_hub(source), reading.records
    columns = records.columns(source.name, loaded.column_names)
    count = len(loaded)
    rows = max(1, min(_MOST_ROWS, reading.unit_bytes * count // max(1, 4 * source.bytes)))
    number = 0
    for batch in loaded.select_columns(columns).iter(rows):
        for row in zip(*(batch[column] for column in columns), strict=True):
            number += 1
            text, reason = records.text_of_row(dict(zip(columns, row, strict=True)))
            if len(text.encode()) > reading.max_document_bytes:
                text, reason = "", TOO_LARGE
            yield source.bytes * number // count, line_of(text, reason)
