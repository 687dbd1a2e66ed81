"""From LLM-Shearing's MDS folders to prepared data: the same packed sequences, in our chunks, with a manifest."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import (
    DomainRecord,
    Manifest,
    SplitRecord,
    TokenizerRecord,
    content_fingerprint,
    is_domain_name,
    write_manifest,
)
from shear_lit.data.preparing.commit import clear_work, commit, locked, output_place
from shear_lit.data.preparing.mds import MdsError, MdsShard, PackedSample, mds_shards
from shear_lit.data.preparing.mds_settings import MdsImport
from shear_lit.data.preparing.packing import SplitWriter
from shear_lit.data.preparing.workers import disk_error
from shear_lit.data.tokens.tokenizer import load_tokenizer
from shear_lit.disk.records import shown

_TYPE = "uint16"
_MOST_WRITERS = 500  # each has a file open
_log = logging.getLogger(__name__)


def import_mds(settings: MdsImport) -> Manifest:
    """Write the packed sequences of MDS folders as prepared data, which then is whole, or is not there.

    The splits are taken as they come: that no document is in two of them is up to who made them.

    Raises:
        MdsError: a folder cannot be read, its sequences are not all of one length, or hold tokens that the tokenizer
            does not know, or a domain is missing in one of the splits.
        DataError: another setting cannot be met.
    """
    output = output_place(settings.output)
    if output.exists() and any(output.iterdir()):
        raise DataError(
            f"{settings.output!r} is not an empty directory: nothing is ever overwritten. "
            "Choose another directory, or remove it.",
            key="output",
        )
    shards = {split: [s for f in fs for s in mds_shards(f)] for split, fs in settings.folders().items()}
    tokenizer = load_tokenizer(settings.tokenizer).record()
    _check_disk(output, shards)
    partial = output.with_name(f"{output.name}.partial")
    packed = partial / "packed"
    try:
        with locked(partial):
            clear_work(partial)  # of a run that was stopped
            try:
                manifest = _Import(settings, packed, tokenizer).run(shards)
                write_manifest(packed, manifest)
                commit(packed, output)
            finally:
                clear_work(partial)
    except OSError as error:
        raise disk_error(partial, error) from error
    return manifest


class _Import:
    """One import: a writer for each domain and split that the samples turn out to have."""

    def __init__(self, settings: MdsImport, folder: Path, tokenizer: TokenizerRecord) -> None:
        self._settings, self._folder, self._tokenizer = settings, folder, tokenizer
        self._length = 0
        self._writers: dict[tuple[str, str], SplitWriter] = {}

    def run(self, shards: dict[str, list[MdsShard]]) -> Manifest:
        for split, those in shards.items():
            for number, shard in enumerate(those, 1):
                for sample in shard:
                    self._writer(split, sample, shard).add(
                        cast(Sequence[int], sample.tokens)
                    )  # an array will do
                _log.info("%s: shard %d of %d, %s", split, number, len(those), shard.raw.path)
        domains = sorted({domain for domain, _ in self._writers})
        for split in shards:
            if absent := [d for d in domains if (d, split) not in self._writers]:
                raise MdsError(
                    f"from_mds.{split} has no sample of {', '.join(absent)}, which another split has: every domain is "
                    "needed in every split. Add the folder of that domain, or leave the split or the domain out."
                )
        records = {d: self._domain({s: self._writers[d, s].finish() for s in shards}) for d in domains}
        return self._manifest(records)

    def _writer(self, split: str, sample: PackedSample, shard: MdsShard) -> SplitWriter:
        self._check(sample, shard)
        key = (sample.domain, split)
        if key not in self._writers:
            if not is_domain_name(sample.domain) or len(self._writers) >= _MOST_WRITERS:
                raise MdsError(
                    f"{str(shard.raw.path)!r} has the domain {shown(sample.domain)}: a domain is called "
                    "by 1 to 100 letters, digits, '_', '-' or '.', and there are at most "
                    f"{_MOST_WRITERS} of them in all splits. Write the data again with other names.",
                    key="from_mds",
                )
            self._writers[key] = SplitWriter(
                self._folder / sample.domain / split,
                sequence_length=self._length,
                token_type=_TYPE,
                chunk_bytes=self._settings.chunk_bytes,
            )
        return self._writers[key]

    def _check(self, sample: PackedSample, shard: MdsShard) -> None:
        self._length = self._length or len(sample.tokens)
        if len(sample.tokens) != self._length or self._length < 2:
            raise MdsError(
                f"{str(shard.raw.path)!r} holds a sequence of {len(sample.tokens)} tokens, the first one has "
                f"{self._length}: all must have the same number, 2 or more. Import the lengths into directories of "
                "their own.",
                key="from_mds",
            )
        if (largest := int(sample.tokens.max())) >= self._tokenizer.vocabulary:
            raise MdsError(
                f"{str(shard.raw.path)!r} holds token {largest}, and tokenizer={self._settings.tokenizer!r} has "
                f"{self._tokenizer.vocabulary} entries: another one made the tokens. Name that one.",
                key="from_mds",
            )

    def _domain(self, splits: dict[str, SplitRecord]) -> DomainRecord:
        return DomainRecord(documents=sum(r.documents for r in splits.values()), rejected={}, splits=splits)

    def _manifest(self, domains: dict[str, DomainRecord]) -> Manifest:
        return Manifest(
            tokenizer=self._tokenizer,
            sequence_length=self._length,
            token_type=_TYPE,
            prepend_bos=self._settings.prepend_bos,
            append_eos=self._settings.append_eos,
            domains=domains,
            fingerprint=content_fingerprint(self._tokenizer, self._length, _TYPE, domains),
        )


def _check_disk(output: Path, shards: dict[str, list[MdsShard]]) -> None:
    needed = sum(shard.raw.bytes for those in shards.values() for shard in those)
    existing = next(parent for parent in output.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(existing).free) < needed:
        raise DataError(
            f"{str(output)!r}: {free / 1e9:.2f} GB are free there, and {needed / 1e9:.2f} GB will be written. "
            "Make space, or choose a directory on another disk.",
            key="output",
        )
