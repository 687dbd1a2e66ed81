"""Pieces of work: every input cut at places that depend on the input alone, never on who does the work.

A range of bytes of a file of lines has the lines that begin in it; a table is cut between row groups; small text files
go together; what can only be read from its beginning is cut into blocks of lines while it is read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import write_json
from shear_lit.data.text.documents import text_of_record
from shear_lit.data.text.reading import bounded_lines, unreadable
from shear_lit.data.text.sources import Kind, Source
from shear_lit.data.text.streams import blocks, check_fields, opened_lines
from shear_lit.data.tokens.spool import finished
from shear_lit.disk.reading import read_small
from shear_lit.disk.records import parse_values, record_of

_TEXTS = 1024  # files that go together at most
_LOOKED_AT = 100  # lines


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of work."""

    domain: str
    """The domain of its documents."""
    name: str
    """The input that it belongs to."""
    task: dict[str, Any]
    """What is to be read; see ``reading``."""
    spool: Path
    """Its result: the name is a hash of all that decides it."""
    bytes: int
    """How much of the input it is."""
    block: bytes = b""
    """The lines themselves, where a worker cannot read them."""

    def place(self, number: int, before: int) -> str:
        """Where document ``number`` of this piece lies; ``before`` lines or rows of its input come before it."""
        if self.task["kind"] == "texts":
            return self.task["paths"][number - 1]
        return f"{self.name}:{before + number}"


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How inputs are cut."""

    spool: Path
    """Directory of the results."""
    settings: str
    """What decides the tokens of a document, besides its text."""
    unit_bytes: int
    """Bytes of a piece of work, about."""
    text_field: str
    """Field that holds a record's document."""
    max_document_bytes: int
    """A longer line is not read on."""

    def result(self, sources: list[Source], *where: int | str) -> Path:
        """The spool file of the part ``where`` of ``sources``, as they are now."""
        what = [(str(Path(s.name).absolute()), s.kind.name, s.modified, s.fingerprint) for s in sources]
        content = json.dumps([self.settings, what, where])
        return self.spool / hashlib.sha256(content.encode()).hexdigest()[:32]


def units(sources: list[Source], cutting: Cutting) -> Iterator[Unit]:
    """The pieces of work of all ``sources``, in their order.

    Raises:
        DataError: an input cannot be read.
    """
    for _, group in groupby(sources, key=lambda source: (source.domain, source.kind is Kind.TEXT)):
        for together in _together(list(group), cutting.unit_bytes):
            match together[0].kind:
                case Kind.TEXT:
                    yield _texts(together, cutting)
                case Kind.LINES:
                    yield from _ranges(together[0], cutting)
                case Kind.TABLE:
                    yield from _row_groups(together[0], cutting)
                case _:
                    yield from _blocks(together[0], cutting)


def check_text_field(sources: list[Source], cutting: Cutting) -> None:
    """Look at the beginning of the first input of records of each domain.

    Raises:
        DataError: it has records, and text in the field in none of them.
    """
    for _, group in groupby(sources, key=lambda source: source.domain):
        records = [s for s in group if s.kind in (Kind.LINES, Kind.GZIP, Kind.ZSTANDARD) and s.bytes]
        if records:
            _check_records(records[0], cutting)


def _check_records(source: Source, cutting: Cutting) -> None:
    fields: dict[str, None] = {}
    with opened_lines(source) as file:
        for _, line in islice(bounded_lines(file, cutting.max_document_bytes), _LOOKED_AT):
            if text_of_record(line, cutting.text_field)[0]:
                return
            if isinstance(record := _parsed(line), dict):
                fields |= dict.fromkeys(record)
    if fields:
        check_fields(source.name, cutting.text_field, fields)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _together(sources: list[Source], unit_bytes: int) -> Iterator[list[Source]]:
    """Text files in groups of about ``unit_bytes``, anything else alone."""
    group: list[Source] = []
    for source in sources:
        group.append(source)
        if source.kind is not Kind.TEXT or len(group) == _TEXTS or sum(s.bytes for s in group) >= unit_bytes:
            yield group
            group = []
    if group:
        yield group


def _texts(sources: list[Source], cutting: Cutting) -> Unit:
    return Unit(
        domain=sources[0].domain,
        name=sources[0].name,
        task={"kind": "texts", "paths": [source.name for source in sources]},
        spool=cutting.result(sources),
        bytes=sum(source.bytes for source in sources),
    )


def _ranges(source: Source, cutting: Cutting) -> Iterator[Unit]:
    for start in range(0, source.bytes, cutting.unit_bytes):
        end = min(source.bytes, start + cutting.unit_bytes)
        yield _part(source, cutting, "lines", start, end, end - start)


def _part(source: Source, cutting: Cutting, kind: str, start: int, end: int, size: int) -> Unit:
    return Unit(
        domain=source.domain,
        name=source.name,
        task={"kind": kind, "path": source.name, "start": start, "end": end},
        spool=cutting.result([source], start, end),
        bytes=size,
    )


def _row_groups(source: Source, cutting: Cutting) -> Iterator[Unit]:
    sizes = _row_group_sizes(source, cutting.text_field)
    start, size, whole = 0, 0, max(1, sum(sizes))
    for index, group in enumerate(sizes):
        size += group
        if size >= cutting.unit_bytes or index == len(sizes) - 1:
            yield _part(source, cutting, "rows", start, index + 1, source.bytes * size // whole)
            start, size = index + 1, 0


def _row_group_sizes(source: Source, text_field: str) -> list[int]:
    """Bytes of the text of each row group."""
    import pyarrow as arrow  # with the rest of the package only where it is asked for
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(source.name) as table:
            schema, metadata = table.schema_arrow, table.metadata
            check_fields(source.name, text_field, schema.names)
            if not _is_text(schema.field(text_field).type):
                raise DataError(
                    f"{text_field!r}: the field of {source.name!r} holds {schema.field(text_field).type}, "
                    "no text. Use the one that holds the documents.",
                    key="text_field",
                )
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
            return [_column_bytes(group, text_field) for group in groups]
    except (arrow.ArrowException, OSError) as error:
        raise unreadable(source.name, error) from error


def _column_bytes(group: Any, field: str) -> int:
    columns = [group.column(index) for index in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)


def _is_text(found: Any) -> bool:
    return str(found) in ("string", "large_string", "string_view") or (
        str(found).startswith("dictionary<values=string")
    )


def _blocks(source: Source, cutting: Cutting) -> Iterator[Unit]:
    """The blocks of a stream; without their lines, and without reading it, once all of them are done."""
    end = cutting.result([source], "end", cutting.unit_bytes).with_suffix(".json")
    count = _count(end)
    if count is not None and all(finished(_block(source, cutting, n).spool) for n in range(count)):
        yield from (_block(source, cutting, n) for n in range(count))
        return
    number = 0
    found = blocks(
        source,
        text_field=cutting.text_field,
        block_bytes=cutting.unit_bytes,
        max_document_bytes=cutting.max_document_bytes,
    )
    for number, block in enumerate(found, start=1):
        yield _block(source, cutting, number - 1, block.lines, block.bytes)
    write_json(end, number)


def _block(source: Source, cutting: Cutting, number: int, lines: bytes = b"", size: int = 0) -> Unit:
    return Unit(
        domain=source.domain,
        name=source.name,
        task={"kind": "block"},
        spool=cutting.result([source], "block", number, cutting.unit_bytes),
        bytes=size,
        block=lines,
    )


def _count(end: Path) -> int | None:
    try:
        return record_of(int, parse_values(read_small(end, limit=100)))
    except (OSError, ValueError):
        return None
