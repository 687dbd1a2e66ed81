"""Reading one piece of work, document by document: a range of lines, row groups of a table, or some text files.

Worker processes import this module: it needs the standard library, and pyarrow where a table is read.
"""

import errno
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from shear_lit.data.errors import DataError
from shear_lit.data.text.documents import TOO_LARGE, checked, missing, text_of_bytes, text_of_record

BLANK = "blank"
"""The reason given for a line of white space, which is no document and nobody's mistake."""

MOST_LINE_BYTES = 1 << 30
"""A longer line is no document: a compressed file of a few megabytes may hold one that takes hours to skip."""

_ROWS = 64  # read at once


class EndlessLineError(OSError):
    """A line that is too long even to be skipped."""

    def __init__(self, position: int) -> None:
        super().__init__(
            errno.EFBIG,
            f"the line at byte {position:,} of what it holds has more than {MOST_LINE_BYTES:,} bytes, which is no text",
        )


class Found(NamedTuple):
    """One document of a piece of work."""

    number: int
    """Which line, row or file it is, from 1."""
    text: str
    """The text, empty if it cannot be used."""
    reason: str
    """Why it cannot be used; empty if it can."""


def read_documents(
    task: dict[str, Any], block: bytes, *, text_field: str, max_document_bytes: int
) -> Iterator[Found]:
    """The documents of the piece of work ``task`` (see ``units``); ``block`` holds its lines where they were sent.

    Raises:
        DataError: a file of it cannot be read.
    """
    try:
        match task["kind"]:
            case "block":
                yield from _of_lines(
                    _lines(io.BytesIO(block), max_document_bytes), text_field, max_document_bytes
                )
            case "lines":
                with open(task["path"], "rb") as file:  # noqa: PTH123 (a plain path, read far more often than made)
                    lines = _lines_of_range(file, task["start"], task["end"], max_document_bytes)
                    yield from _of_lines(lines, text_field, max_document_bytes)
            case "rows":
                yield from _of_rows(task, text_field, max_document_bytes)
            case "texts":
                yield from _of_files(task["paths"], max_document_bytes)
            case kind:
                raise AssertionError(kind)
    except OSError as error:
        raise unreadable(task.get("path", error.filename), error) from error


def unreadable(path: object, error: Exception) -> DataError:
    """What to say of an input that cannot be read."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(
        f"{str(path)!r} cannot be read ({reason}): it is truncated, damaged, or not what its name says. "
        "Copy it again, or take it out of the list; what has been tokenised is kept for the next run.",
        key="domains",
    )


def bounded_lines(file: BinaryIO, limit: int, position: int = 0) -> Iterator[tuple[int, bytes]]:
    """The lines from ``position``, which is here, on, with the bytes that each takes in the file.

    A line of more than ``limit`` bytes is cut after one byte more, so that memory is bounded whatever the file holds.

    Raises:
        EndlessLineError: a line has more than ``MOST_LINE_BYTES``.
    """
    while line := file.readline(limit + 1):
        size = len(line)
        if size > limit and not line.endswith(b"\n"):
            while rest := file.readline(1 << 20):
                size += len(rest)
                if size > MOST_LINE_BYTES:
                    raise EndlessLineError(position)
                if rest.endswith(b"\n"):
                    break
        yield size, line
        position += size


def _lines(file: BinaryIO, limit: int) -> Iterator[bytes]:
    for _, line in bounded_lines(file, limit):
        yield line


def _lines_of_range(file: BinaryIO, start: int, end: int, limit: int) -> Iterator[bytes]:
    """The lines that begin in [start, end): every line of a file is in one range of it."""
    position = max(0, start - 1)
    file.seek(position)
    lines = bounded_lines(file, limit, position)
    if start:
        position += next(lines, (end, b""))[0]  # the end of the line before, or only its newline
    for size, line in lines if position < end else ():
        yield line
        position += size
        if position >= end:
            break


def _of_lines(lines: Iterator[bytes], text_field: str, limit: int) -> Iterator[Found]:
    for number, line in enumerate(lines, start=1):
        if len(line) > limit and not line.endswith(b"\n"):
            yield Found(number, "", TOO_LARGE)
        elif line.isspace():
            yield Found(number, "", BLANK)
        else:
            yield Found(number, *text_of_record(line, text_field))


def _of_rows(task: dict[str, Any], text_field: str, limit: int) -> Iterator[Found]:
    import pyarrow as arrow  # with the rest of the package only where it is asked for
    import pyarrow.parquet as parquet

    number = 0
    try:
        # Pages are read as they are needed: a row group may be larger than the memory.
        with parquet.ParquetFile(task["path"], buffer_size=1 << 20, pre_buffer=False) as table:
            groups = list(range(task["start"], task["end"]))
            for batch in table.iter_batches(
                _ROWS, row_groups=groups, columns=[text_field], use_threads=False
            ):
                column = batch.column(0)
                if isinstance(column, arrow.DictionaryArray):
                    column = column.dictionary_decode()
                for content in column.cast(arrow.large_binary()).to_pylist():
                    number += 1
                    yield Found(number, *_text_of_cell(content, text_field, limit))
    except (arrow.ArrowException, OSError) as error:
        raise unreadable(task["path"], error) from error


def _text_of_cell(content: bytes | None, text_field: str, limit: int) -> tuple[str, str]:
    if content is None:
        return checked(None, missing(text_field))
    return ("", TOO_LARGE) if len(content) > limit else text_of_bytes(content)


def _of_files(paths: list[str], limit: int) -> Iterator[Found]:
    for number, path in enumerate(paths, start=1):
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read(limit + 1)
        yield Found(number, *(("", TOO_LARGE) if len(content) > limit else text_of_bytes(content)))
