"""The stages of a run, tokenising, selecting, packing: each gives tasks, whose results may come in any order."""

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import write_index
from shear_lit.data.prepared.manifest import (
    INDEX,
    LEDGER,
    PAGE,
    DomainRecord,
    Manifest,
    SplitRecord,
    content_fingerprint,
    write_manifest,
)
from shear_lit.data.preparing.decontaminating import record_of_run
from shear_lit.data.preparing.duplicates import mark_duplicates
from shear_lit.data.preparing.executors import Executor
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.ledger import Input, Ledger, fingerprint_of
from shear_lit.data.preparing.packing import DONE, EMPTY, Packed, Stream, Tail, pack, stream_of
from shear_lit.data.preparing.reporting import StageProgress, page, report_rejected
from shear_lit.data.preparing.selecting import Chosen, Marks, Selection, select
from shear_lit.data.text.pieces import Piece, pieces
from shear_lit.data.text.sources import Source
from shear_lit.data.tokens.encoding import NOTHING, Encoded, contents_of, encode, joined
from shear_lit.data.tokens.spools import Spool
from shear_lit.disk.writing import write_file

_EMPTY = SplitRecord(documents=0, tokens=0, tail_tokens=0, chunks=())
_log = logging.getLogger(__name__)


@dataclass
class Tokenised:
    """What was tokenised of one domain in this run."""

    pieces: list[Piece] = field(default_factory=list)
    """Its pieces of work, without their text, in order."""
    encoded: list[Encoded] = field(default_factory=list)
    """Their results."""
    inputs: list[Input] = field(default_factory=list)
    """What was read."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Documents that cannot be used, by reason."""


@dataclass(frozen=True)
class Before:
    """The data set that a run adds to."""

    manifest: Manifest
    """What it holds."""
    ledger: Ledger
    """What it keeps for this."""


def tokenised(job: Job, sources: Sequence[Source], executor: Executor) -> dict[str, Tokenised]:
    """Tokenise all inputs, and report what cannot be used; by domain, in the order of their names.

    Raises:
        DataError: an input cannot be read, or too much of one domain cannot be used.
    """
    done: dict[int, tuple[Piece, Encoded]] = {}
    with StageProgress("Tokenising", sources) as progress:
        for (number, piece), encoded in executor.run(partial(_encode, job), enumerate(pieces(sources, job))):
            done[number] = replace(piece, block=b""), encoded
            progress.add_piece(piece.bytes, encoded.record.documents)
    if again := sum(encoded.again for _, encoded in done.values()):
        _log.info("%d of %d pieces of work were done by an earlier run", again, len(done))
    domains = {name: Tokenised() for name in sorted({source.domain for source in sources})}
    for _, (piece, encoded) in sorted(done.items()):
        domains[piece.domain].pieces.append(piece)
        domains[piece.domain].encoded.append(encoded)
    for name, domain in domains.items():
        found = joined(zip(domain.pieces, (one.contents for one in domain.encoded), strict=True))
        own = [source for source in sources if source.domain == name]
        domain.inputs = [Input(name, s.name, s.bytes, found.get(s.name, NOTHING)) for s in own]
        records = [encoded.record for encoded in domain.encoded]
        pairs = list(zip(domain.pieces, records, strict=True))
        domain.rejected = report_rejected(name, pairs, job.settings.max_rejected_fraction, job.field_key)
    return domains


def contents(job: Job, sources: Sequence[Source], executor: Executor) -> list[str]:
    """What each input holds, without tokenising it."""
    by_domain: dict[str, list[tuple[Piece, tuple[int, ...]]]] = {}
    with StageProgress("Looking for what is new", sources) as progress:
        for piece, found in executor.run(partial(contents_of, job), pieces(sources, job)):
            by_domain.setdefault(piece.domain, []).append((replace(piece, block=b""), found))
            progress.add_piece(piece.bytes)
    found_in = {domain: joined(own) for domain, own in by_domain.items()}
    return [found_in.get(s.domain, {}).get(s.name, NOTHING) for s in sources]


def assembled(job: Job, domains: dict[str, Tokenised], before: Before | None, executor: Executor) -> Manifest:
    """Drop duplicates, divide the documents among the splits and pack them; what is written lies in ``job.packed``.

    Raises:
        DataError: a split would have no sequence, or not the tokens that it is to have.
    """
    shutil.rmtree(job.packed / LEDGER, ignore_errors=True)
    ledger = Ledger(job.packed, before.manifest.runs + 1 if before else 1)
    ledger.folder.mkdir(parents=True)
    records = dict(before.manifest.domains if before else {})
    tails = before.ledger.tails() if before else {}
    selections, marks = _selected(job, domains, records, before, ledger)
    streams = _streams(selections, marks, tails)
    packed = _packed(job, streams, records, executor)
    inputs = [*(before.ledger.inputs() if before else ()), *(i for d in domains.values() for i in d.inputs)]
    for name, selection in selections.items():
        own = {split: streams[f"{name}/{split}"] for split in selection.bounds}
        tails[name] = {split: stream.rest(job) for split, stream in own.items()}
        earlier = records.get(name)
        splits = {
            split: _split_record(job, selection, stream, packed[stream.folder], earlier, tails[name][split])
            for split, stream in own.items()
        }
        of_domain = [item for item in inputs if item.domain == name]
        records[name] = _record(earlier, selection, splits, domains[name].rejected, of_domain)
    ledger.write(inputs, tails, job.counted_grams if job.decontamination else None)
    done = {name: list(zip(one.pieces, one.encoded, strict=True)) for name, one in domains.items()}
    decontamination = record_of_run(job, done, before.manifest if before else None)
    manifest = replace(_manifest(job, records, ledger), decontamination=decontamination)
    _remove_others(job, manifest)
    write_file(job.packed / PAGE, page(manifest, [(i.domain, i.name, i.bytes) for i in inputs]))
    write_manifest(job.packed, manifest)
    return manifest


def _encode(job: Job, task: tuple[int, Piece]) -> Encoded:
    return encode(job, task[1])


def _selected(
    job: Job,
    domains: dict[str, Tokenised],
    records: dict[str, DomainRecord],
    before: Before | None,
    ledger: Ledger,
) -> tuple[dict[str, Selection], Marks]:
    """Where every document goes; the spools are numbered in the order of the domains and their pieces."""
    spools: list[Spool] = []
    numbers = {}
    for name, domain in domains.items():
        numbers[name] = range(len(spools), len(spools) + len(domain.encoded))
        spools += [Spool(job.spools / encoded.spool) for encoded in domain.encoded]
    mark_duplicates(spools, job.marks, before.ledger.documents if before else None, ledger.documents)
    marks, selections = Marks(job.marks, spools), {}
    for name, own in numbers.items():
        frozen = records[name].bounds if name in records else None
        selections[name] = select(name, marks, own, job.settings, frozen)
    return selections, marks


def _streams(
    selections: dict[str, Selection], marks: Marks, tails: dict[str, dict[str, Tail]]
) -> dict[str, Stream]:
    """The documents of each split of each domain, one after the other, by folder."""
    fingerprint = marks.fingerprint()
    return {
        f"{name}/{split}": stream_of(
            f"{name}/{split}", number, chosen, marks, fingerprint, tails.get(name, {}).get(split, EMPTY)
        )
        for name, selection in selections.items()
        for number, (split, chosen) in enumerate(selection.chosen.items())
    }


def _packed(
    job: Job, streams: dict[str, Stream], records: dict[str, DomainRecord], executor: Executor
) -> dict[str, list[Packed]]:
    """Write every chunk; by folder, in order."""
    there = {f"{name}/{split}": len(r.chunks) for name, d in records.items() for split, r in d.splits.items()}
    tasks = [task for stream in streams.values() for task in stream.tasks(job, there.get(stream.folder, 0))]
    (job.work / DONE).mkdir(exist_ok=True)
    found = {(task.folder, task.number): packed for task, packed in executor.run(partial(pack, job), tasks)}
    return {
        folder: [found[task.folder, task.number] for task in tasks if task.folder == folder]
        for folder in streams
    }


def _split_record(
    job: Job,
    selection: Selection,
    stream: Stream,
    new: Sequence[Packed],
    earlier: DomainRecord | None,
    rest: Tail,
) -> SplitRecord:
    """Write the index of a split, and describe all that it then holds."""
    domain, _, split = stream.folder.partition("/")
    chosen = selection.chosen[split]
    before = _EMPTY if earlier is None else earlier.splits[split]
    record = SplitRecord(
        documents=before.documents + sum(one.documents for one in chosen),
        tokens=before.tokens + sum(one.tokens for one in chosen),
        tail_tokens=len(rest.tokens),
        chunks=(*before.chunks, *(one.chunk for one in new if one.chunk is not None)),
        duplicates=before.duplicates + selection.duplicates[split],
        padding=before.padding + sum(one.padding for one in new),
        turns=before.turns + sum(one.turns for one in new),
        cuts=before.cuts + _cuts(new, chosen),
        learned=before.learned + sum(one.learned for one in new),
    )
    _log.info("%s: %d documents, %d sequences", stream.folder, record.documents, record.sequences)
    if not record.sequences:
        raise _too_small(job, domain, split, record)
    folder, length = job.packed / stream.folder, job.settings.sequence_length
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, record.chunks, length=length, per_chunk=job.per_chunk, token_type=job.token_type)
    return record


def _cuts(new: Sequence[Packed], chosen: Sequence[Chosen]) -> int:
    """At how many places conversations were cut."""
    parts = sum(one.parts for one in new)
    return parts - sum(one.documents for one in chosen) if parts else 0


def _too_small(job: Job, domain: str, split: str, record: SplitRecord) -> DataError:
    settings = job.settings
    wanted = getattr(settings.tokens, split)
    key = f"tokens.{split}" if wanted else f"shares.{split}"
    return DataError(
        f"{wanted or getattr(settings.shares, split)}: domain {domain!r} has {record.documents} "
        f"documents with {record.tokens} tokens in this split, less than one sequence of "
        f"sequence_length={settings.sequence_length}. Raise {key}, lower sequence_length, add text, or set "
        f"{'the share' if not wanted else 'it and the share'} to 0 to leave the split out.",
        key=key,
    )


def _record(
    earlier: DomainRecord | None,
    selection: Selection,
    splits: dict[str, SplitRecord],
    rejected: Counter[str],
    inputs: Sequence[Input],
) -> DomainRecord:
    all_rejected = rejected + Counter(earlier.rejected if earlier else {})
    return DomainRecord(
        documents=sum(record.documents for record in splits.values()),
        rejected=dict(sorted(all_rejected.items())),
        splits=splits,
        duplicates=(earlier.duplicates if earlier else 0) + selection.dropped,
        unused=(earlier.unused if earlier else 0) + selection.unused,
        bounds=selection.bounds,
        inputs=len(inputs),
        bytes=sum(item.bytes for item in inputs),
        inputs_fingerprint=fingerprint_of(inputs),
    )


def _manifest(job: Job, domains: dict[str, DomainRecord], ledger: Ledger) -> Manifest:
    settings = job.settings
    domains = {name: domains[name] for name in sorted(domains)}
    return Manifest(
        tokenizer=job.tokenizer,
        sequence_length=settings.sequence_length,
        token_type=job.token_type,
        prepend_bos=settings.prepend_bos,
        append_eos=settings.append_eos,
        domains=domains,
        text_field=settings.text_field,
        shares=asdict(settings.shares),
        tokens=asdict(settings.tokens),
        packing=settings.packing,
        split_special_tokens=settings.split_special_tokens,
        chat=job.chat,
        ledger=ledger.records(),
        runs=ledger.run,
        fingerprint=content_fingerprint(job.tokenizer, settings.sequence_length, job.token_type, domains),
    )


def _remove_others(job: Job, manifest: Manifest) -> None:
    """Remove chunks of another run, which was stopped and had other settings or files."""
    for folder in (path for path in job.packed.glob("*/*") if path.parent.name != LEDGER):
        domain = manifest.domains.get(folder.parent.name)
        record = domain.splits.get(folder.name) if domain else None
        named = {one.file for chunk in record.chunks for one in chunk.files()} if record else set()
        for path in folder.iterdir():
            if path.name not in named and (record is None or path.name != INDEX):
                path.unlink()
        if record is None:
            folder.rmdir()
    for folder in job.packed.iterdir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
