"""Pieces of work: every input cut at places that depend on the input alone, never on who does the work.

Each kind of input is a class that cuts it and reads what it cut; here are their names. Worker processes import this
module: it needs the standard library, and other packages where an input of their kind is read.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from shear_lit.data.storage.s3 import is_address
from shear_lit.data.text.documents import Found
from shear_lit.data.text.kind import Kind, Piece, Reading, Source
from shear_lit.data.text.kinds.arrow import ArrowFile
from shear_lit.data.text.kinds.delimited import Delimited
from shear_lit.data.text.kinds.files import TextFiles
from shear_lit.data.text.kinds.hub import HubDataset
from shear_lit.data.text.kinds.json_files import JsonArrays
from shear_lit.data.text.kinds.lines import CompressedLines, Lines
from shear_lit.data.text.kinds.litdata_tokens import litdata_run
from shear_lit.data.text.kinds.megatron import Megatron
from shear_lit.data.text.kinds.parquet import Parquet
from shear_lit.data.text.kinds.s3 import InS3
from shear_lit.data.text.kinds.token_runs import TokenRun, flat_run, numpy_run
from shear_lit.data.text.refusals import unreadable

KINDS: dict[str, Kind] = {
    "lines": Lines(),
    "lines.gz": CompressedLines(),
    "lines.bz2": CompressedLines(),
    "lines.xz": CompressedLines(),
    "lines.zst": CompressedLines(),
    "array": JsonArrays(),
    "text": TextFiles(),
    "csv": Delimited(","),
    "tsv": Delimited("\t"),
    "parquet": Parquet(),
    "arrow": ArrowFile(),
    "hub": HubDataset(),
    "megatron": Megatron(),
    "litdata": TokenRun(litdata_run),
    "npy": TokenRun(numpy_run),
    "uint16": TokenRun(lambda name: flat_run(name, "uint16")),
    "uint32": TokenRun(lambda name: flat_run(name, "uint32")),
}
"""Who cuts and reads each kind of input; ``sources`` says which files are of which."""

WITHOUT_RECORDS = ("text", "megatron", "litdata", "npy", "uint16", "uint32")
"""Kinds of inputs that are one document, or tokens, and have no records with fields."""

_MOST_FILES = 1024  # that go together


def pieces(sources: Iterable[Source], reading: Reading) -> Iterator[Piece]:
    """The pieces of all ``sources``, in their order; small files of a document each go together.

    Raises:
        DataError: an input cannot be read.
    """
    group, size = list[Piece](), 0
    for piece in _cut(sources, reading):
        is_full = len(group) == _MOST_FILES or size >= reading.unit_bytes
        if group and (is_full or not piece.names or piece.domain != group[0].domain):
            yield _together(group)
            group, size = [], 0
        if piece.names:
            group.append(piece)
            size += piece.bytes
        else:
            yield piece
    if group:
        yield _together(group)


def documents(piece: Piece, reading: Reading) -> Iterator[Found]:
    """The documents of a piece, in order.

    Raises:
        DataError: it cannot be read.
    """
    with _told(piece.name):
        yield from _kind_of(piece).documents(piece, reading)


def check_text_field(sources: Iterable[Source], reading: Reading) -> None:
    """Look at the beginning of the first input of each kind in each domain.

    Raises:
        DataError: it has records, and text in the field in none of them.
    """
    firsts: dict[tuple[str, str], Source] = {}
    for source in sources:
        if source.bytes:
            firsts.setdefault((source.domain, source.kind), source)
    for source in firsts.values():
        with _told(source.name):
            if source.kind in WITHOUT_RECORDS:
                reading.records.check_whole(source.name, source.domain)
            _kind_of(source).check(source, reading)


def _cut(sources: Iterable[Source], reading: Reading) -> Iterator[Piece]:
    for source in sources:
        with _told(source.name):
            yield from _kind_of(source).cut(source, reading)


def _kind_of(of: Source | Piece) -> Kind:
    return InS3(KINDS[of.kind]) if is_address(of.name) else KINDS[of.kind]


def _together(group: list[Piece]) -> Piece:
    names = tuple(name for piece in group for name in piece.names)
    return replace(group[0], names=names, bytes=sum(piece.bytes for piece in group))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What the system says against reading an input, as what a person is told."""
    try:
        yield
    except OSError as error:
        raise unreadable(name, error) from error
