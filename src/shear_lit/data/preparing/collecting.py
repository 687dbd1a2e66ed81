"""What a run has packed, as records: those of splits and domains, the page and the manifest."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

from shear_lit.data.prepared.chunks import write_index
from shear_lit.data.prepared.contamination import DecontaminationRecord
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
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.ledger import Input, Ledger, fingerprint_of
from shear_lit.data.preparing.packing import Packed, Tail
from shear_lit.data.preparing.reporting import page
from shear_lit.data.preparing.selection import DomainSelection, SplitSelection
from shear_lit.disk.writing import write_file

_EMPTY = SplitRecord(documents=0, tokens=0, tail_tokens=0, chunks=())
_log = logging.getLogger(__name__)


def split_record(
    job: Job,
    selection: SplitSelection,
    new: Sequence[Packed],
    earlier: DomainRecord | None,
    rest: Tail,
) -> SplitRecord:
    """Write the index of a split, and describe all that it then holds."""
    folder, length = job.packed / selection.rest.folder, job.settings.sequence_length
    before = _EMPTY if earlier is None else earlier.splits[folder.name]
    record = SplitRecord(
        documents=before.documents + selection.documents,
        tokens=before.tokens + selection.tokens,
        tail_tokens=len(rest.tokens),
        chunks=(*before.chunks, *(one.chunk for one in new if one.chunk is not None)),
        duplicates=before.duplicates + selection.duplicates,
        padding=before.padding + sum(one.padding for one in new),
        turns=before.turns + sum(one.turns for one in new),
        cuts=before.cuts + _cuts(new, selection.documents),
        learned=before.learned + sum(one.learned for one in new),
    )
    _log.info("%s: %d documents, %d sequences", selection.rest.folder, record.documents, record.sequences)
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, record.chunks, length=length, per_chunk=job.per_chunk, token_type=job.token_type)
    return record


def _cuts(new: Sequence[Packed], documents: int) -> int:
    """At how many places conversations were cut."""
    parts = sum(one.parts for one in new)
    return parts - documents if parts else 0


def domain_record(
    earlier: DomainRecord | None,
    selection: DomainSelection,
    splits: dict[str, SplitRecord],
    rejected: Counter[str],
    inputs: Sequence[Input],
) -> DomainRecord:
    """What a domain then holds, in ``splits``, made of ``inputs``; ``rejected`` are documents of this run."""
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


def write_collected(
    job: Job,
    records: dict[str, DomainRecord],
    ledger: Ledger,
    inputs: Sequence[Input],
    decontamination: DecontaminationRecord | None,
) -> Manifest:
    """Write the page and the manifest of what then lies in ``job.packed``, and remove there what is none of it."""
    manifest = replace(_manifest(job, records, ledger), decontamination=decontamination)
    _remove_others(job, manifest)
    write_file(job.packed / PAGE, page(manifest, [(i.domain, i.name, i.bytes) for i in inputs]))
    write_manifest(job.packed, manifest)
    return manifest


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
