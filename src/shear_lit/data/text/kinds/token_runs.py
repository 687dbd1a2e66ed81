"""Text that is tokenised already, as one run of token ids in which a token ends each document."""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from shear_lit.data.errors import DataError
from shear_lit.data.text.documents import EMPTY, TOO_LARGE, Found
from shear_lit.data.text.items import chunks_of_range, items
from shear_lit.data.text.kind import Piece, Reading, Source
from shear_lit.data.text.refusals import unreadable

NEGATIVE = "token id below zero"
"""The reason for tokens that are none."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens that lie one after the other in a file."""

    path: str
    """The file."""
    offset: int
    """Bytes before them."""
    count: int
    """How many there are."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All tokens of an input."""

    token_type: Any
    """What they are stored as: a NumPy type of whole numbers."""
    spans: tuple[Span, ...]
    """Where they are, in order."""

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(span.count for span in self.spans)


class TokenRun:
    """An input that is one run of tokens: its pieces are ranges of tokens, with the documents that begin in each.

    Args:
        find: The run of the input of that name; it raises OSError, EOFError or ValueError where there is none.
    """

    def __init__(self, find: Callable[[str], Run]) -> None:
        self._find = find

    def cut(self, source: Source, reading: Reading) -> Iterator[Piece]:
        """As in ``Kind``."""
        run = self._run(source.name)
        _check_end(source, run, reading.end_of_text)
        count, step = run.count, max(1, reading.unit_bytes // run.token_type.itemsize)
        for start in range(0, count, step):
            end = min(count, start + step)
            size = source.bytes * end // count - source.bytes * start // count
            yield Piece(
                domain=source.domain, name=source.name, kind=source.kind, bytes=size, start=start, end=end
            )

    def documents(self, piece: Piece, reading: Reading) -> Iterator[Found]:
        """As in ``Kind``."""
        run, end_of_text = self._run(piece.name), reading.end_of_text
        limit, first = reading.max_document_bytes // run.token_type.itemsize, max(0, piece.start - 1)
        found = items(
            _chunks(run, first, piece.end, piece.name),
            lambda chunk: ends_of(chunk, end_of_text),
            limit=limit,
            position=first,
            end=piece.end,
            begun=not piece.start,
        )
        for number, parts in enumerate(found, start=1):
            yield found_tokens(number, parts, reading)

    def check(self, source: Source, reading: Reading) -> None:
        """As in ``Kind``."""
        _check_end(source, self._run(source.name), reading.end_of_text)

    def _run(self, name: str) -> Run:
        try:
            return self._find(name)
        except (OSError, EOFError, ValueError) as error:
            raise unreadable(name, error) from error


def found_tokens(number: int, parts: list[Any], reading: Reading) -> Found:
    """The document that ``parts`` make up, without the token that ends it."""
    import numpy as np  # only where tokens are read

    tokens = np.concatenate(parts)
    if len(tokens) and tokens[-1] == reading.end_of_text:
        tokens = tokens[:-1]
    if tokens.nbytes > reading.max_document_bytes:
        return Found(number, "", TOO_LARGE)
    if not len(tokens):
        return Found(number, "", EMPTY)
    return Found(number, "", NEGATIVE) if tokens.min() < 0 else Found(number, "", "", tokens)


def ends_of(chunk: Any, end_of_text: int | None) -> list[int]:
    """The places behind the tokens that end a document."""
    import numpy as np  # only where tokens are read

    return [int(place) + 1 for place in np.flatnonzero(chunk == end_of_text)]


def read_tokens(file: IO[bytes], offset: int, count: int, token_type: Any) -> Any:
    """``count`` tokens of a file.

    Raises:
        EOFError: it does not have them.
    """
    import numpy as np  # only where tokens are read

    file.seek(offset)
    content = file.read(count * token_type.itemsize)
    if len(content) != count * token_type.itemsize:
        raise EOFError("it has fewer tokens than it had")
    return np.frombuffer(content, token_type)


def flat_run(name: str, token_type: str) -> Run:
    """The tokens of a file that holds nothing else.

    Raises:
        OSError: it cannot be read.
        ValueError: its size is no multiple of that of a token.
    """
    import numpy as np  # only where tokens are read

    stored, size = np.dtype(token_type).newbyteorder("<"), Path(name).stat().st_size
    if size % stored.itemsize:
        raise ValueError(f"its {size:,} bytes are no whole number of tokens of {stored.itemsize} bytes")
    return Run(token_type=stored, spans=(Span(path=name, offset=0, count=size // stored.itemsize),))


def numpy_run(name: str) -> Run:
    """The tokens of an array in NumPy's format, which is never unpickled.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no array of whole numbers in one dimension, or not all of it is there.
    """
    import tokenize  # what NumPy repairs an old header with, and so lets its errors through

    import numpy as np  # only where tokens are read
    from numpy.lib import format as formats

    with open(name, "rb") as file:  # noqa: PTH123
        version = formats.read_magic(file)
        headers = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}
        if version not in headers:
            raise ValueError(f"its format has version {version}, which is not 1.0 or 2.0")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that the header is an old one
                shape, _, stored = headers[version](file)
        except (tokenize.TokenError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise ValueError(f"its header cannot be understood: {error}") from error
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    if len(shape) != 1 or not np.issubdtype(stored, np.integer):
        raise ValueError(
            f"it holds {stored} of shape {shape}, and whole numbers in one dimension are expected"
        )
    if shape[0] < 0 or offset + shape[0] * stored.itemsize > size:
        raise ValueError(f"it has {size:,} bytes, which are fewer than its {shape[0]:,} tokens take")
    return Run(token_type=stored, spans=(Span(path=name, offset=offset, count=shape[0]),))


def _check_end(source: Source, run: Run, end_of_text: int | None) -> None:
    import numpy as np  # only where tokens are read

    if end_of_text is None:
        raise DataError(
            f"{source.name!r} holds tokens, and a document of it ends where the tokenizer's end-of-text token is: "
            "the tokenizer has none. Use one that has.",
            key=f"domains.{source.domain}",
        )
    if end_of_text > np.iinfo(run.token_type).max:
        raise DataError(
            f"{source.name!r} holds tokens of type {run.token_type}, and the tokenizer's end-of-text token is "
            f"{end_of_text}, which is too large for it: another tokenizer made them. Use that one.",
            key=f"domains.{source.domain}",
        )


def _chunks(run: Run, start: int, end: int, name: str) -> Iterator[Any]:
    """What lies from token ``start`` on, in chunks of which one ends at ``end``."""
    before = 0
    for span in run.spans:
        if start < before + span.count:
            try:
                with open(span.path, "rb", buffering=0) as file:  # noqa: PTH123
                    for chunk in chunks_of_range(_reader(file, span, start - before, run), start, end):
                        yield chunk
                        start += len(chunk)
            except (OSError, EOFError) as error:
                raise unreadable(name, error) from error
        before += span.count


def _reader(file: IO[bytes], span: Span, at: int, run: Run) -> Callable[[int], Any]:
    """Reads the next tokens of a span, at most so many as it is asked for."""

    def read(count: int) -> Any:
        nonlocal at
        count = min(count, span.count - at)
        at += count
        return read_tokens(file, span.offset + (at - count) * run.token_type.itemsize, count, run.token_type)

    return read
