"""What a prepared data set keeps for adding files: the hashes of its documents, its inputs, its left-over tokens.

``<directory>/.ledger/<run>/``, one folder for each run that added something, of which the manifest names the last:
whatever is half-written belongs to no run yet.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.manifest import Manifest, write_json
from shear_lit.data.preparation.inputs import Source

LEDGER = ".ledger"
_DOCUMENTS, _INPUTS, _TAILS = "documents.bin", "inputs.jsonl", "tails.json"

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
        with (self.folder / _INPUTS).open(encoding="utf-8") as lines:
            return [Input(*json.loads(line)) for line in lines]

    def tails(self) -> Tails:
        """The tokens left over."""
        return json.loads((self.folder / _TAILS).read_text(encoding="utf-8"))

    def write(self, inputs: Iterable[Input], tails: Tails) -> None:
        """Write all but the hashes."""
        with (self.folder / _INPUTS).open("w", encoding="utf-8") as file:
            for item in inputs:
                file.write(json.dumps([item.domain, item.name, item.bytes, item.fingerprint]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        write_json(self.folder / _TAILS, tails)


def ledger_of(directory: Path, manifest: Manifest) -> Ledger:
    """The ledger of a prepared data set.

    Raises:
        DataError: it has none, or not the whole of it.
    """
    ledger = Ledger(directory, manifest.runs)
    if not manifest.runs:
        raise DataError(
            f"output={str(directory)!r} was prepared without a ledger of its documents (by an earlier version, or from "
            "tokens): files cannot be added to it. Prepare all files into another directory."
        )
    expected = sum(domain.documents + domain.unused for domain in manifest.domains.values())
    try:
        ledger.inputs(), ledger.tails()
        found = ledger.documents.stat().st_size // 16
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(directory, str(error)) from error
    if found != expected:
        raise _damaged(directory, f"{found:,} document hashes instead of {expected:,}")
    return ledger


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
                f"domains.{source.domain}: {source.name!r} has changed since it was prepared, and what was prepared is "
                "never changed. Put what is new into a file of its own, or prepare into another directory."
            )
    return new


def _damaged(directory: Path, what: str) -> DataError:
    return DataError(
        f"output={str(directory)!r}: its ledger ({LEDGER}) is damaged or was not copied with it ({what}): training is "
        "not affected, but files cannot be added. Copy it again, or prepare all files into another directory."
    )
