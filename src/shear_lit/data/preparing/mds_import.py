"""From LLM-Shearing's MDS folders to prepared data: the same packed sequences, in our chunks, with a manifest.

Shards are looked through, each by whoever is free; how many sequences of each domain they hold says, by prefix sums,
which sequences of which shards make a chunk; and every chunk is a task of its own.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import Tokens, write_chunk, write_index
from shear_lit.data.prepared.manifest import (
    ChunkRecord,
    DomainRecord,
    Manifest,
    SplitRecord,
    TokenizerRecord,
    content_fingerprint,
    is_domain_name,
    write_manifest,
)
from shear_lit.data.preparing.bounds import Ends, ends_of
from shear_lit.data.preparing.commit import commit, disk_error, locked, output_place
from shear_lit.data.preparing.executors import Executor, Here, Processes
from shear_lit.data.preparing.mds import MdsError, MdsShard, mds_shards
from shear_lit.data.preparing.settings import MdsImport
from shear_lit.data.tokens.tokenizer import load_tokenizer
from shear_lit.disk.records import shown

_TYPE = "uint16"
_MOST_DOMAINS = 1000


def import_mds(settings: MdsImport, executor: Executor | None = None) -> Manifest:
    """Write the packed sequences of MDS folders as prepared data, which then is whole, or is not there.

    The splits are taken as they come: that no document is in two of them is up to who made them. Where documents begin
    is told by BOS and EOS.

    Args:
        settings: Which folders, and as what.
        executor: Who does the tasks; by default ``settings.workers`` processes of this machine.

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
    work = output.with_name(f"{output.name}.partial")
    if executor is None:
        executor = Here() if settings.workers == 1 else Processes(settings.workers)
    try:
        with locked(work):
            packed = work / "packed"  # what else is there is of a preparation that was stopped
            try:
                shutil.rmtree(packed, ignore_errors=True)
                manifest = _Import(settings, packed, tokenizer, executor).run(shards)
                write_manifest(packed, manifest)
                commit(packed, output)
            finally:
                shutil.rmtree(packed, ignore_errors=True)
    except OSError as error:
        raise disk_error(work, error) from error
    return manifest


@dataclass
class _Seen:
    """What a shard holds: by domain, the numbers of its samples."""

    samples: dict[str, list[int]] = field(default_factory=dict)
    length: int = 0
    largest: int = 0


def _look_through(shard: MdsShard) -> _Seen:
    seen = _Seen()
    for number, sample in enumerate(shard):
        seen.length = seen.length or len(sample.tokens)
        if len(sample.tokens) != seen.length or seen.length < 2:
            raise _other_length(shard, len(sample.tokens), seen.length)
        seen.largest = max(seen.largest, int(sample.tokens.max()))
        if sample.domain not in seen.samples and len(seen.samples) == _MOST_DOMAINS:
            raise _no_domain(shard, sample.domain)
        seen.samples.setdefault(sample.domain, []).append(number)
    return seen


@dataclass(frozen=True)
class _Task:
    """One chunk: some samples of some shards."""

    folder: str
    number: int
    samples: tuple[tuple[MdsShard, tuple[int, ...]], ...]


def _write(packed: Path, ends: Ends, length: int, task: _Task) -> tuple[ChunkRecord, int]:
    """Write a chunk; it, and how many documents begin in it."""
    parts: list[Tokens] = []
    for shard, numbers in task.samples:
        wanted = frozenset(numbers)
        parts += [sample.tokens for number, sample in enumerate(shard) if number in wanted]
    tokens = np.stack(parts)
    documents = ends.told(tokens)
    (packed / task.folder).mkdir(parents=True, exist_ok=True)
    chunk = write_chunk(packed / task.folder, task.number, [tokens.reshape(-1)], documents, length)
    return chunk, 0 if documents is None else len(documents.starts)


class _Import:
    """One import."""

    def __init__(
        self, settings: MdsImport, packed: Path, tokenizer: TokenizerRecord, executor: Executor
    ) -> None:
        self._settings, self._packed, self._tokenizer, self._executor = settings, packed, tokenizer, executor
        self._length = 0
        self._ends = ends_of(tokenizer, settings)

    def run(self, shards: dict[str, list[MdsShard]]) -> Manifest:
        per_domain = self._looked_through(shards)
        domains = sorted({domain for domain, _ in per_domain})
        for split in shards:
            if absent := [d for d in domains if (d, split) not in per_domain]:
                raise MdsError(
                    f"from_mds.{split} has no sample of {', '.join(absent)}, which another split has: every domain is "
                    "needed in every split. Add the folder of that domain, or leave the split or the domain out."
                )
        per_chunk = max(1, self._settings.chunk_bytes // (self._length * np.dtype(_TYPE).itemsize))
        tasks = [task for (d, s), own in per_domain.items() for task in _tasks(f"{d}/{s}", own, per_chunk)]
        written: dict[str, dict[int, tuple[ChunkRecord, int]]] = {}
        write = partial(_write, self._packed, self._ends, self._length)
        for task, found in self._executor.run(write, tasks):
            written.setdefault(task.folder, {})[task.number] = found
        records = {d: self._domain(d, shards, written, per_chunk) for d in domains}
        return self._manifest(records)

    def _looked_through(
        self, shards: dict[str, list[MdsShard]]
    ) -> dict[tuple[str, str], list[tuple[MdsShard, list[int]]]]:
        """The samples of each domain and split, in order."""
        numbered = [
            (split, number, shard) for split, own in shards.items() for number, shard in enumerate(own)
        ]
        seen = {(split, number): found for (split, number, _), found in self._executor.run(_look, numbered)}
        found: dict[tuple[str, str], list[tuple[MdsShard, list[int]]]] = {}
        for split, number, shard in numbered:
            self._check(seen[split, number], shard)
            for domain, samples in seen[split, number].samples.items():
                found.setdefault((domain, split), []).append((shard, samples))
                if not is_domain_name(domain) or len(found) > _MOST_DOMAINS:
                    raise _no_domain(shard, domain)
        return found

    def _check(self, seen: _Seen, shard: MdsShard) -> None:
        if not seen.samples:
            return
        self._length = self._length or seen.length
        if seen.length != self._length:
            raise _other_length(shard, seen.length, self._length)
        if seen.largest >= self._tokenizer.vocabulary:
            raise MdsError(
                f"{str(shard.raw.path)!r} holds token {seen.largest}, and tokenizer={self._settings.tokenizer!r} has "
                f"{self._tokenizer.vocabulary} entries: another one made the tokens. Name that one.",
                key="from_mds",
            )

    def _domain(
        self,
        domain: str,
        splits: Sequence[str] | dict[str, list[MdsShard]],
        written: dict[str, dict[int, tuple[ChunkRecord, int]]],
        per_chunk: int,
    ) -> DomainRecord:
        records = {}
        for split in splits:
            folder = f"{domain}/{split}"
            own = [found for _, found in sorted(written[folder].items())]
            chunks = tuple(chunk for chunk, _ in own)
            write_index(
                self._packed / folder, chunks, length=self._length, per_chunk=per_chunk, token_type=_TYPE
            )
            tokens = sum(chunk.sequences for chunk in chunks) * self._length
            documents = sum(count for _, count in own)
            records[split] = SplitRecord(documents=documents, tokens=tokens, tail_tokens=0, chunks=chunks)
        return DomainRecord(documents=sum(r.documents for r in records.values()), rejected={}, splits=records)

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


def _look(one: tuple[str, int, MdsShard]) -> _Seen:
    return _look_through(one[2])


def _tasks(folder: str, samples: list[tuple[MdsShard, list[int]]], per_chunk: int) -> list[_Task]:
    """The chunks of one domain and split."""
    firsts = list(accumulate((len(numbers) for _, numbers in samples), initial=0))
    tasks = []
    for number, begin in enumerate(range(0, firsts[-1], per_chunk)):
        parts = [
            (shard, tuple(numbers[max(0, begin - first) : max(0, begin + per_chunk - first)]))
            for (shard, numbers), first in zip(samples, firsts[:-1], strict=True)
        ]
        tasks.append(_Task(folder, number, tuple((shard, own) for shard, own in parts if own)))
    return tasks


def _other_length(shard: MdsShard, length: int, first: int) -> MdsError:
    return MdsError(
        f"{str(shard.raw.path)!r} holds a sequence of {length} tokens, the first one has "
        f"{first}: all must have the same number, 2 or more. Import the lengths into directories of their own.",
        key="from_mds",
    )


def _no_domain(shard: MdsShard, domain: str) -> MdsError:
    return MdsError(
        f"{str(shard.raw.path)!r} has the domain {shown(domain)}: a domain is called by 1 to 100 letters, digits, "
        f"'_', '-' or '.', and there are at most {_MOST_DOMAINS} of them. Write the data again with other names.",
        key="from_mds",
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
