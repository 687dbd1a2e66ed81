"""Arrow files: batches of rows, in the form with a directory at its end or in that of a stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.kinds.blocks import Texts, blocks, line_of
from shear_lit.data.text.refusals import unreadable

_ROWS = 16  # looked at together
_MAGIC = b"ARROW1"  # of the form with a directory


class ArrowFile(Texts):
    """A table that is mapped into memory, so that of a batch only the rows that are looked at are read."""

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        yield from blocks(source, _lines(source, reading), reading.unit_bytes)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``."""
        with _opened(source.name) as (schema, _):
            _columns(source.name, schema, reading)


def _lines(source: Source, reading: Reading) -> Iterator[tuple[int, bytes]]:
    before, records = 0, reading.records
    with _opened(source.name) as (schema, batches):
        columns = _columns(source.name, schema, reading)
        for batch, fraction in batches:
            after = int(source.bytes * fraction)
            for start in range(0, batch.num_rows, _ROWS):
                rows = batch.select(columns).slice(start, _ROWS)
                position = before + (after - before) * start // batch.num_rows
                for text, reason in records.texts_of_batch(rows, reading.max_document_bytes):
                    yield position, line_of(text, reason)
            before = after


def _columns(name: str, schema: Any, reading: Reading) -> list[str]:
    columns = reading.records.columns(name, schema.names)
    reading.records.check_types(name, schema)
    return columns


@contextmanager
def _opened(name: str) -> Iterator[tuple[Any, Iterator[tuple[Any, float]]]]:
    """The schema, and the batches, each with the fraction of the file that it ends at."""
    import pyarrow as arrow  # wanted for this kind of input alone
    from pyarrow import ipc

    try:
        with arrow.memory_map(name) as mapped:
            has_directory = mapped.read(len(_MAGIC)) == _MAGIC
            mapped.seek(0)
            table = ipc.open_file(mapped) if has_directory else ipc.open_stream(mapped)
            yield table.schema, _batches(table) if has_directory else _streamed(table, mapped)
    except (
        arrow.ArrowException,
        OSError,
        EOFError,
        UnicodeDecodeError,
    ) as error:  # the last: a column's name
        raise unreadable(name, error) from error


def _batches(table: Any) -> Iterator[tuple[Any, float]]:
    for index in range(count := table.num_record_batches):
        yield table.get_batch(index), (index + 1) / count


def _streamed(table: Any, mapped: Any) -> Iterator[tuple[Any, float]]:
    for batch in table:
        yield batch, mapped.tell() / mapped.size()
