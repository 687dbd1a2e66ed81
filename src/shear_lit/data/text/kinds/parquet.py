"""Parquet: small row groups are read by whoever tokenises them, the rows of a large one by whoever cuts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from shear_lit.data.text.documents import Found
from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.kinds.blocks import Texts, blocks, line_of
from shear_lit.data.text.refusals import unreadable

_MOST_ROWS = 64  # read at once
_LARGE = 2  # units: a larger row group is cut


class Parquet(Texts):
    """A table whose rows lie in groups.

    The rows of a group can only be read from its beginning: if a large one were cut into ranges of rows, each of
    them would be read with all that comes before it.
    """

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        sizes = _group_sizes(source.name, reading)
        whole, start, before, done = max(1, sum(sizes)), 0, 0, 0
        for index, size in enumerate(sizes):
            is_large = size > _LARGE * reading.unit_bytes
            if is_large and index > start:
                yield _groups(source, start, index, _share(source, before, done, whole))
                start, before = index, done
            done += size
            if is_large:
                yield from _rows(source, index, _share(source, before, done, whole), reading)
            elif done - before >= reading.unit_bytes or index == len(sizes) - 1:
                yield _groups(source, start, index + 1, _share(source, before, done, whole))
            else:
                continue
            start, before = index + 1, done

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        if piece.block:
            yield from super().documents(piece, reading)
            return
        groups = list(range(piece.start, piece.end))
        for number, (text, reason) in enumerate(_texts(piece.name, groups, reading), start=1):
            yield Found(number, text, reason)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``."""
        _group_sizes(source.name, reading)


def _share(source: Source, before: int, done: int, whole: int) -> int:
    """How much of the file lies between two places of the table."""
    return source.bytes * done // whole - source.bytes * before // whole


def _groups(source: Source, start: int, end: int, size: int) -> Piece:
    return Piece(domain=source.domain, name=source.name, kind=source.kind, bytes=size, start=start, end=end)


def _rows(source: Source, group: int, size: int, reading: Reading) -> Iterator[Piece]:
    """The pieces of one large row group, which is ``size`` bytes of the file."""
    count = max(1, _row_count(source.name, group))
    lines = (
        (size * number // count, line_of(*found))
        for number, found in enumerate(_texts(source.name, [group], reading), start=1)
    )
    yield from blocks(replace(source, bytes=size), lines, reading.unit_bytes)


def _texts(name: str, groups: list[int], reading: Reading) -> Iterator[tuple[str, str]]:
    # Pages are read as they are needed: a row group may be larger than the memory.
    with _table(name) as table:
        rows = _rows_at_once(table, groups, reading)
        columns = reading.records.columns(name, table.schema_arrow.names)
        for batch in table.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
            yield from reading.records.texts_of_batch(batch, reading.max_document_bytes)


def _rows_at_once(table: Any, groups: list[int], reading: Reading) -> int:
    """Fewer where they are large: so many as make up a quarter of a unit."""
    found = [table.metadata.row_group(index) for index in groups]
    size, count = sum(map(_bytes, found)), sum(group.num_rows for group in found)
    return max(1, min(_MOST_ROWS, reading.unit_bytes * count // max(1, 4 * size)))


def _row_count(name: str, group: int) -> int:
    with _table(name) as table:
        return int(table.metadata.row_group(group).num_rows)


def _group_sizes(name: str, reading: Reading) -> list[int]:
    """Bytes of each row group."""
    with _table(name) as table:
        schema, metadata = table.schema_arrow, table.metadata
        reading.records.columns(name, schema.names)
        reading.records.check_types(name, schema)
        return [_bytes(metadata.row_group(index)) for index in range(metadata.num_row_groups)]


def _bytes(group: Any) -> int:
    """Bytes of all columns: asking a damaged file for those of one can end the process."""
    return max(0, int(group.total_byte_size))


@contextmanager
def _table(name: str) -> Iterator[Any]:
    import pyarrow as arrow  # with the rest of the package only where it is asked for
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(name, buffer_size=1 << 20, pre_buffer=False) as table:
            yield table
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: the name of a column
        raise unreadable(name, error) from error
