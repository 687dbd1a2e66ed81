"""From spools to packed splits: duplicates dropped, places divided among the splits, tokens packed in order."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import DomainRecord, SplitRecord
from shear_lit.data.preparing.duplicates import Duplicates, places_and_lengths
from shear_lit.data.preparing.ledger import Input
from shear_lit.data.preparing.packing import SplitWriter
from shear_lit.data.preparing.splits import Bounds, SplitShares, SplitTokens, split_bounds, splits_of
from shear_lit.data.preparing.thresholds import place_below
from shear_lit.data.text.documents import listed
from shear_lit.data.text.units import Unit
from shear_lit.data.tokens.encoding import REPORTED
from shear_lit.data.tokens.spool import Spool

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How tokens become files."""

    sequence_length: int
    """Tokens of a sequence."""
    token_type: str
    """``uint16`` or ``uint32``."""
    chunk_bytes: int
    """Size that a chunk aims at."""
    shares: SplitShares
    """Fractions of the splits."""
    tokens: SplitTokens
    """Sizes of the splits that have no share."""


@dataclass
class Spooled:
    """What was tokenised of one domain in this run."""

    units: list[Unit]
    """Its pieces of work."""
    spools: list[Spool]
    """Their results."""
    numbers: list[int]
    """Which of all the spools these are."""


def by_domain(domains: Iterable[str], units: list[Unit], spools: list[Spool]) -> dict[str, Spooled]:
    """What was tokenised, by domain, in the order of their names."""
    found = {name: Spooled([], [], []) for name in sorted(domains)}
    for number, (unit, spool) in enumerate(zip(units, spools, strict=True)):
        domain = found[unit.domain]
        domain.units.append(unit)
        domain.spools.append(spool)
        domain.numbers.append(number)
    return found


def check_rejected(domain: str, spooled: Spooled, max_rejected_fraction: float) -> Counter[str]:
    """Report what could not be used, and count it by reason.

    Raises:
        DataError: more than ``max_rejected_fraction`` of the documents were rejected.
    """
    rejected: Counter[str] = Counter()
    first: list[str] = []
    before, name = 0, ""
    for unit, spool in zip(spooled.units, spooled.spools, strict=True):
        before = before if unit.name == name else 0
        rejected.update(spool.record.rejected)
        first += [f"{unit.place(number, before)}: {reason}" for number, reason in spool.record.first]
        before, name = before + spool.record.numbers, unit.name
    count = rejected.total()
    if count:
        seen = count + sum(spool.record.documents for spool in spooled.spools)
        for where in first[:REPORTED]:
            _log.warning("domain %s: rejected %s", domain, where)
        _log.warning("domain %s: %d of %d documents rejected: %s", domain, count, seen, listed(rejected))
        if count > max_rejected_fraction * seen:
            raise DataError(
                f"{max_rejected_fraction}: {count} of {seen} documents of domain {domain!r} "
                f"cannot be used ({listed(rejected)}). The first: {'; '.join(first[:REPORTED])}. "
                "Repair the files, correct text_field, or raise max_rejected_fraction.",
                key="max_rejected_fraction",
            )
    return rejected


class DomainPacker:
    """Packs one domain, or adds to it."""

    def __init__(
        self, domain: str, packing: Packing, earlier: DomainRecord | None, tails: Mapping[str, Sequence[int]]
    ) -> None:
        """Begin ``domain``, or go on after ``earlier``, whose left-over tokens are ``tails``, by split."""
        self._domain, self._packing, self._earlier, self._tails = domain, packing, earlier, tails
        self.tails: dict[str, list[int]] = {}
        """The tokens left over, by split, once it is packed."""

    def pack(
        self,
        folder: Path,
        spooled: Spooled,
        duplicates: Duplicates,
        rejected: Counter[str],
        inputs: list[Input],
    ) -> DomainRecord:
        """Write the splits into ``folder``, and describe all that the domain then holds.

        Raises:
            DataError: a split would have no sequence.
        """
        earlier = self._earlier
        bounds = earlier.bounds if earlier else self._bounds(spooled, duplicates)
        splits, unused = self._write(folder, spooled, duplicates, bounds)
        for split, record in splits.items():
            self._check_size(split, record)
            _log.info(
                "%s/%s: %d documents, %d sequences", self._domain, split, record.documents, record.sequences
            )
        fingerprints = "".join(item.fingerprint for item in inputs)
        return DomainRecord(
            documents=sum(record.documents for record in splits.values()),
            rejected=dict(sorted((rejected + Counter(earlier.rejected if earlier else {})).items())),
            splits=splits,
            duplicates=(earlier.duplicates if earlier else 0)
            + sum(duplicates.count(n) for n in spooled.numbers),
            unused=(earlier.unused if earlier else 0) + unused,
            bounds=bounds,
            inputs=len(inputs),
            bytes=sum(item.bytes for item in inputs),
            inputs_fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
        )

    def _bounds(self, spooled: Spooled, duplicates: Duplicates) -> Bounds:
        def place(split: str, top: float, tokens: int) -> float:
            kept = lambda: places_and_lengths(spooled.spools, duplicates, spooled.numbers)  # noqa: E731
            found, there = place_below(kept, top, tokens)
            if there < tokens:
                raise DataError(
                    f"{tokens}: domain {self._domain!r} has {there:,} tokens left for this split. "
                    f"Lower tokens.{split}, add text, or set it to 0 and use shares.{split}.",
                    key=f"tokens.{split}",
                )
            return found

        return split_bounds(self._packing.shares, self._packing.tokens, place)

    def _write(
        self, folder: Path, spooled: Spooled, duplicates: Duplicates, bounds: Bounds
    ) -> tuple[dict[str, SplitRecord], int]:
        with ExitStack() as stack:
            writers = {split: stack.enter_context(self._writer(folder / split, split)) for split in bounds}
            dropped, unused = np.zeros(len(bounds), dtype=np.int64), 0
            for number, spool in zip(spooled.numbers, spooled.spools, strict=True):
                hashes, lengths = spool.documents()
                splits, again = splits_of(bounds, hashes[:, 0]), duplicates.of(number)
                dropped += np.bincount(splits[again & (splits >= 0)], minlength=len(bounds))
                unused += int(((splits < 0) & ~again).sum())
                tokens = spool.tokens()
                for index, writer in enumerate(writers.values()):
                    wanted = (splits == index) & ~again
                    writer.add(tokens[np.repeat(wanted, lengths)], documents=int(wanted.sum()))
            records = {split: writer.finish() for split, writer in writers.items()}
            self.tails = {split: writer.tail for split, writer in writers.items()}
        return {
            split: replace(record, duplicates=record.duplicates + int(count))
            for (split, record), count in zip(records.items(), dropped, strict=True)
        }, unused

    def _writer(self, folder: Path, split: str) -> SplitWriter:
        return SplitWriter(
            folder,
            sequence_length=self._packing.sequence_length,
            token_type=self._packing.token_type,
            chunk_bytes=self._packing.chunk_bytes,
            earlier=self._earlier.splits[split] if self._earlier else None,
            tail=self._tails.get(split, ()),
        )

    def _check_size(self, split: str, record: SplitRecord) -> None:
        if record.sequences:
            return
        wanted = getattr(self._packing.tokens, split)
        key = f"tokens.{split}" if wanted else f"shares.{split}"
        raise DataError(
            f"{wanted or getattr(self._packing.shares, split)}: domain {self._domain!r} has {record.documents} "
            f"documents with {record.tokens} tokens in this split, less than one sequence of "
            f"sequence_length={self._packing.sequence_length}. Raise {key}, lower sequence_length, add text, or set "
            f"{'the share' if not wanted else 'it and the share'} to 0 to leave the split out.",
            key=key,
        )
