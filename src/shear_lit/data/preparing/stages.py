"""The stages that follow tokenising: documents are selected, chunks are packed, and all is collected.

Each leaves what the next one needs in files of the run's directory, so that any machine can do it.
"""

import shutil
from collections.abc import Sequence
from functools import partial

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import LEDGER, DomainRecord, Manifest
from shear_lit.data.preparing.collecting import domain_record, split_record, write_collected
from shear_lit.data.preparing.decontaminating import record_of_run
from shear_lit.data.preparing.duplicates import mark_duplicates
from shear_lit.data.preparing.executors import Executor
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.ledger import Ledger
from shear_lit.data.preparing.packing import (
    DONE,
    EMPTY,
    ChunkTask,
    Packed,
    Stream,
    pack,
    packed_before,
    rest_of,
    stream_of,
)
from shear_lit.data.preparing.plan import PartNumber
from shear_lit.data.preparing.reporting import report_rejected
from shear_lit.data.preparing.selecting import Chosen, Marks, Selection, select
from shear_lit.data.preparing.selection import (
    DomainSelection,
    Selected,
    SplitSelection,
    tasks_of,
    write_selected,
)
from shear_lit.data.preparing.tokenising import Before, Tokenised


def select_documents(job: Job, domains: dict[str, Tokenised], before: Before | None, plan: str) -> Selected:
    """Drop duplicates, divide the documents among the splits, and write which chunks there are to be.

    Raises:
        DataError: too many documents cannot be used, or a split would not have the tokens that it is to have.
    """
    job.selection.unlink(missing_ok=True)
    for name, domain in domains.items():
        report_rejected(name, domain.pieces, job.settings.max_rejected_fraction, job.field_key)
    shutil.rmtree(job.packed / LEDGER, ignore_errors=True)
    ledger = Ledger(job.packed, before.manifest.runs + 1 if before else 1)
    ledger.folder.mkdir(parents=True)
    records = before.manifest.domains if before else {}
    tails = before.ledger.tails() if before else {}
    selections, marks = _divided(job, domains, records, before, ledger)
    found: dict[str, DomainSelection] = {}
    tasks: list[ChunkTask] = []
    for name, selection in selections.items():
        splits = {}
        for number, (split, chosen) in enumerate(selection.chosen.items()):
            folder, tail = f"{name}/{split}", tails.get(name, {}).get(split, EMPTY)
            stream = stream_of(folder, number, chosen, marks, tail)
            there = len(records[name].splits[split].chunks) if name in records else 0
            own = list(stream.tasks(job, there))
            if not own and not there:
                raise _too_small(job, name, split, chosen)
            tasks += own
            splits[split] = _of_split(job, selection, stream)
        found[name] = DomainSelection(
            bounds=selection.bounds, dropped=selection.dropped, unused=selection.unused, splits=splits
        )
    selected = Selected(plan=plan, run=ledger.run, domains=found)
    write_selected(job, selected, tasks)
    return selected


def _divided(
    job: Job,
    domains: dict[str, Tokenised],
    records: dict[str, DomainRecord],
    before: Before | None,
    ledger: Ledger,
) -> tuple[dict[str, Selection], str]:
    """Where every document goes, and the SHA-256 of the file that says it."""
    held = [one for domain in domains.values() for one in domain.held]
    mark_duplicates(held, job.marks, before.ledger.documents if before else None, ledger.documents)
    marks, selections, first = Marks(job.marks, held), {}, 0
    for name, domain in domains.items():
        own = range(first, first + len(domain.held))
        first += len(domain.held)
        selections[name] = select(
            name, marks, own, job.settings, records[name].bounds if name in records else None
        )
    return selections, marks.fingerprint()


def _too_small(job: Job, domain: str, split: str, chosen: Sequence[Chosen]) -> DataError:
    settings = job.settings
    wanted = getattr(settings.tokens, split)
    key = f"tokens.{split}" if wanted else f"shares.{split}"
    documents, tokens = sum(one.documents for one in chosen), sum(one.tokens for one in chosen)
    return DataError(
        f"{wanted or getattr(settings.shares, split)}: domain {domain!r} has {documents} "
        f"documents with {tokens} tokens in this split, less than one sequence of "
        f"sequence_length={settings.sequence_length}. Raise {key}, lower sequence_length, add text, or set "
        f"{'the share' if not wanted else 'it and the share'} to 0 to leave the split out.",
        key=key,
    )


def _of_split(job: Job, selection: Selection, stream: Stream) -> SplitSelection:
    split = stream.folder.partition("/")[2]
    chosen = selection.chosen[split]
    return SplitSelection(
        documents=sum(one.documents for one in chosen),
        tokens=sum(one.tokens for one in chosen),
        duplicates=selection.duplicates[split],
        rest=stream.rest(job),
    )


def pack_part(job: Job, part: PartNumber, executor: Executor) -> int:
    """Write every ``part.of``-th chunk that is not written, and give the number of those that are the part's."""
    (job.work / DONE).mkdir(exist_ok=True)
    own = list(tasks_of(job, part))
    for _ in executor.run(partial(pack, job), own):
        pass
    return len(own)


def collect(job: Job, domains: dict[str, Tokenised], selected: Selected, before: Before | None) -> Manifest:
    """Describe what was packed; all that is to be part of the output lies in ``job.packed`` then.

    Raises:
        DataError: a chunk is not there, or a split has no sequence.
    """
    packed = _packed(job)
    ledger = Ledger(job.packed, selected.run)
    records = dict(before.manifest.domains if before else {})
    tails = before.ledger.tails() if before else {}
    inputs = [*(before.ledger.inputs() if before else ()), *(i for d in domains.values() for i in d.inputs)]
    for name, selection in selected.domains.items():
        tails[name] = {split: rest_of(job, one.rest) for split, one in selection.splits.items()}
        splits = {
            split: split_record(
                job, one, packed.get(one.rest.folder, []), records.get(name), tails[name][split]
            )
            for split, one in selection.splits.items()
        }
        of_domain = [item for item in inputs if item.domain == name]
        records[name] = domain_record(
            records.get(name), selection, splits, domains[name].rejected(), of_domain
        )
    ledger.write(inputs, tails, job.counted_grams if job.decontamination else None)
    pieces = {name: domain.pieces for name, domain in domains.items()}
    decontamination = record_of_run(job, pieces, before.manifest if before else None)
    return write_collected(job, records, ledger, inputs, decontamination)


def _packed(job: Job) -> dict[str, list[Packed]]:
    """What was written, in order, by folder."""
    found: dict[str, list[Packed]] = {}
    missing: list[str] = []
    for task in tasks_of(job, PartNumber()):
        if (packed := packed_before(job, task)) is None:
            missing.append(f"{task.folder}/chunk-0-{task.number}")
        else:
            found.setdefault(task.folder, []).append(packed)
    if missing:
        raise _not_packed(missing)
    return found


def _not_packed(missing: Sequence[str]) -> DataError:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return DataError(
        f"'commit': {len(missing)} chunks are not packed: {', '.join(missing[:3])}{more}. Run `--stage pack` again for "
        "the parts that have not ended; `--stage pack --part 1/1` does all that is left.",
        key="stage",
    )
