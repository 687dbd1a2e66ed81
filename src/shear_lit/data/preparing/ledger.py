"""What a prepared data set keeps for adding files: the hashes of its documents, its inputs, its left-over tokens.

``<directory>/.ledger/<run>/``, one folder for each run that added something, of which the manifest names the last:
whatever is half-written belongs to no run yet.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import Manifest, write_json
from shear_lit.data.text.sources import Source
from shear_lit.data.tokens.spool import HASHES
from shear_lit.disk.names import leads_outside
from shear_lit.disk.reading import read_small
from shear_lit.disk.records import parse_values, read_values, record_of, shown
from shear_lit.disk.writing import write_file

LEDGER = ".ledger"
_DOCUMENTS, _INPUTS, _TAILS = "documents.bin", "inputs.jsonl", "tails.json"

_HASH_BYTES = 16
_TOGETHER = 1_000_000  # hashes that are compared at a time
_LINE: Any = tuple[str, str, int, str]
_MOST_BYTES = 1 << 28  # a million inputs

Tails = dict[str, dict[str, list[int]]]
"""The tokens that filled no sequence, by domain and split."""


@dataclass(frozen=True)
class Input:
    """An input that was read."""

    domain: str
    name: str
    bytes: int
    fingerprint: str


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

    def write(self, inputs: Iterable[Input], tails: Tails) -> None:
        """Write all but the hashes."""
        lines = (json.dumps([one.domain, one.name, one.bytes, one.fingerprint]) + "\n" for one in inputs)
        write_file(self.folder / _INPUTS, "".join(lines))
        write_json(self.folder / _TAILS, tails)


def ledger_of(directory: Path, manifest: Manifest) -> Ledger:
    """The ledger of a prepared data set.

    Raises:
        DataError: it has none, or not the whole of it.
    """
    ledger = Ledger(directory, manifest.runs)
    if not manifest.runs:
        raise DataError(
            f"{str(directory)!r} was prepared without a ledger of its documents (by an earlier version, or from "
            "tokens): files cannot be added to it. Prepare all files into another directory.",
            key="output",
        )
    expected = sum(domain.documents + domain.unused for domain in manifest.domains.values())
    try:
        if any(leads_outside(ledger.folder / name, directory) for name in (_INPUTS, _TAILS, _DOCUMENTS)):
            raise ValueError("it is a link that leads out of the data")
        ledger.inputs()
        tails = ledger.tails()
        size = ledger.documents.stat().st_size
    except (OSError, ValueError) as error:
        raise _damaged(directory, str(error)) from error
    if not ledger.documents.is_file() or size != expected * _HASH_BYTES:
        raise _damaged(directory, f"{size:,} bytes of document hashes instead of {expected * _HASH_BYTES:,}")
    if not _is_sorted(ledger.documents):
        raise _damaged(directory, "its document hashes are not those that were written")
    for split in (tokens for domain in tails.values() for tokens in domain.values()):
        if len(split) >= manifest.sequence_length or max(split, default=0) >= manifest.tokenizer.vocabulary:
            raise _damaged(directory, f"the left-over tokens {shown(split)}")
    return ledger


def _is_sorted(documents: Path) -> bool:
    """Whether each hash is larger than the one before it."""
    if not documents.stat().st_size:
        return True
    hashes = np.memmap(documents, dtype=HASHES, mode="r").reshape(-1, 2)
    for start in range(0, len(hashes), _TOGETHER):
        part = hashes[start : start + _TOGETHER + 1]
        high, low = part[:, 0], part[:, 1]
        if not ((high[:-1] < high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] < low[1:]))).all():
            return False
    return True


def new_sources(sources: list[Source], known: list[Input]) -> list[Source]:
    """Those of ``sources`` that were not read before.

    Raises:
        DataError: one was read, and has changed since.
    """
    contents = {(item.domain, item.fingerprint) for item in known}
    names = {(item.domain, item.name) for item in known}
    new = [source for source in sources if (source.domain, source.fingerprint) not in contents]
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
