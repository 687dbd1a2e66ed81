"""What a prepared data set keeps for adding files: the hashes of its documents, its inputs, its left-over tokens.

``<directory>/.ledger/<run>/``, one folder for each run that added something, of which the manifest names the last and
the hashes of what is in it: whatever is half-written belongs to no run yet.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import content_problem, file_hash
from shear_lit.data.prepared.manifest import LEDGER, FileRecord, Manifest, write_json
from shear_lit.data.preparing.packing import Tail
from shear_lit.data.text.sources import Source
from shear_lit.disk.names import leads_outside
from shear_lit.disk.reading import read_small
from shear_lit.disk.records import parse_values, read_values, record_of, shown
from shear_lit.disk.writing import write_file

_DOCUMENTS, _INPUTS, _TAILS = "documents.bin", "inputs.jsonl", "tails.json"
_HASH_BYTES = 16
_LINE: Any = tuple[str, str, int, str]
_MOST_BYTES = 1 << 28  # a million inputs

Tails = dict[str, dict[str, Tail]]
"""The tokens that filled no sequence, by domain and split."""


@dataclass(frozen=True)
class Input:
    """An input that was read."""

    domain: str
    name: str
    bytes: int
    content: str
    """Sum of the hashes of its documents; see ``joined``."""


class Ledger:
    """The ledger of one run."""

    def __init__(self, directory: Path, run: int) -> None:
        """Take the folder of run number ``run`` in the data set at ``directory``."""
        self.run = run
        """The number of the run, from 1."""
        self.folder = directory / LEDGER / str(run)
        """Where it lies."""
        self.documents = self.folder / _DOCUMENTS
        """The hashes of all documents, sorted: two UInt64 each, the more significant first."""

    def inputs(self) -> list[Input]:
        """The inputs of all runs so far, in order."""
        lines = read_small(self.folder / _INPUTS, limit=_MOST_BYTES).splitlines()
        return [Input(*record_of(_LINE, parse_values(line))) for line in lines]

    def tails(self) -> Tails:
        """The tokens left over."""
        return record_of(Tails, read_values(self.folder / _TAILS, limit=_MOST_BYTES))

    def write(self, inputs: Iterable[Input], tails: Tails, grams: Path | None = None) -> None:
        """Write all but the hashes; ``grams`` is a file to be kept, where it is there."""
        lines = (json.dumps([one.domain, one.name, one.bytes, one.content]) + "\n" for one in inputs)
        write_file(self.folder / _INPUTS, "".join(lines))
        content = {name: {split: asdict(tail) for split, tail in own.items()} for name, own in tails.items()}
        write_json(self.folder / _TAILS, content)
        if grams is not None and grams.is_file():
            write_file(self.folder / grams.name, grams.read_bytes())

    def records(self) -> tuple[FileRecord, ...]:
        """What a manifest says of its files."""
        return tuple(
            FileRecord(file=path.name, bytes=path.stat().st_size, sha256=file_hash(path))
            for path in sorted(self.folder.iterdir())
        )


def fingerprint_of(inputs: Iterable[Input]) -> str:
    """SHA-256 over what each input holds, in order."""
    return hashlib.sha256("".join(item.content for item in inputs).encode()).hexdigest()


def ledger_of(directory: Path, manifest: Manifest) -> Ledger:
    """The ledger of a prepared data set.

    Raises:
        DataError: it has none, or not the whole of it.
    """
    ledger = Ledger(directory, manifest.runs)
    if not manifest.ledger:
        raise DataError(
            f"{str(directory)!r} was prepared without a ledger that this version can read (by an earlier version, or "
            "from tokens): files cannot be added to it. Prepare all files into another directory.",
            key="output",
        )
    for record in manifest.ledger:
        path = ledger.folder / record.file
        if leads_outside(path, directory):
            raise _damaged(directory, f"{record.file} is a link that leads out of the data")
        if (what := content_problem(path, record)) is not None:
            raise _damaged(directory, f"{record.file}: {what}")
    expected = sum(domain.documents + domain.unused for domain in manifest.domains.values())
    try:
        ledger.inputs()
        tails, size = ledger.tails(), ledger.documents.stat().st_size
    except (OSError, ValueError) as error:
        raise _damaged(directory, str(error)) from error
    if size != expected * _HASH_BYTES:
        raise _damaged(directory, f"{size:,} bytes of document hashes instead of {expected * _HASH_BYTES:,}")
    for tail in (tail for own in tails.values() for tail in own.values()):
        _check_tail(directory, manifest, tail)
    return ledger


def _check_tail(directory: Path, manifest: Manifest, tail: Tail) -> None:
    too_large = max(tail.tokens, default=0) >= manifest.tokenizer.vocabulary
    if too_large or len(tail.tokens) >= manifest.sequence_length:
        raise _damaged(directory, f"the left-over tokens {shown(tail.tokens)}")
    if sorted(tail.starts) != tail.starts or max(tail.starts, default=-1) >= len(tail.tokens):
        raise _damaged(directory, f"the left-over documents begin at {shown(tail.starts)}")


def new_sources(sources: Sequence[Source], contents: Sequence[str], known: Iterable[Input]) -> list[Source]:
    """Those of ``sources``, whose documents are ``contents``, that were not read before.

    Raises:
        DataError: one was read, and has changed since.
    """
    read, names = set[tuple[str, str]](), set[tuple[str, str]]()
    for item in known:
        read.add((item.domain, item.content))
        names.add((item.domain, item.name))
    both = zip(sources, contents, strict=True)
    new = [source for source, content in both if (source.domain, content) not in read]
    for source in new:
        if (source.domain, source.name) in names:
            raise DataError(
                f"{source.name!r} has changed since it was prepared, and what was prepared is "
                "never changed. Put what is new into a file of its own, or prepare into another directory.",
                key=f"domains.{source.domain}",
            )
    return new


def _damaged(directory: Path, what: str) -> DataError:
    return DataError(
        f"{str(directory)!r}: its ledger ({LEDGER}) is damaged or was not copied with it ({what}): training is "
        "not affected, but files cannot be added. Copy it again, or prepare all files into another directory.",
        key="output",
    )
