"""One run of ``prepare``, once all is checked: pieces of work to spools, spools to packed splits, and the manifest."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shear_lit.data.prepared.manifest import (
    DomainRecord,
    Manifest,
    TokenizerRecord,
    content_fingerprint,
    write_manifest,
)
from shear_lit.data.preparing.assembly import DomainPacker, Packing, by_domain, check_rejected
from shear_lit.data.preparing.duplicates import find_duplicates
from shear_lit.data.preparing.ledger import Input, Ledger
from shear_lit.data.preparing.progress import Progress
from shear_lit.data.preparing.workers import tokenise_here, tokenise_in_processes
from shear_lit.data.text.sources import Source
from shear_lit.data.text.units import Cutting, Unit, check_text_field, units
from shear_lit.data.tokens.encoding import Tokenising
from shear_lit.data.tokens.spool import Spool, SpoolRecord, finished

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides what a run writes, and where."""

    directory: Path
    """Where the run works: nothing else is touched."""
    tokenising: Tokenising
    """What decides a document's tokens."""
    cutting: Cutting
    """How the inputs are cut."""
    packing: Packing
    """How the tokens become files."""
    tokenizer: TokenizerRecord
    """What made the tokens."""
    prepend_bos: bool
    """Whether each document begins with BOS."""
    append_eos: bool
    """Whether each document ends with EOS."""
    max_rejected_fraction: float
    """Fraction of a domain's documents that may be unusable."""
    workers: int
    """Processes that tokenise."""

    @property
    def packed(self) -> Path:
        """Where what is to be added to the output is collected."""
        return self.directory / "packed"


@dataclass(frozen=True)
class Before:
    """The data set that a run adds to."""

    manifest: Manifest
    """What it holds."""
    ledger: Ledger
    """What it keeps for this."""


def run(plan: Plan, sources: list[Source], before: Before | None, tokenizer: str) -> Manifest:
    """Prepare ``sources``; what it writes lies in ``plan.packed``.

    Args:
        plan: The settings.
        sources: The inputs, none of which ``before`` has.
        before: What is there already, if there is something.
        tokenizer: The tokenizer, serialised.

    Raises:
        DataError: an input cannot be used, or a split would be too small.
        OSError: the disk cannot be written.
    """
    check_text_field(sources, plan.cutting)
    plan.cutting.spool.mkdir(parents=True, exist_ok=True)
    Path(plan.tokenising.tokenizer).write_text(tokenizer, encoding="utf-8")
    done, spools = _tokenised(plan, sources)
    return _packed(plan, sources, before, done, spools)


def _tokenised(plan: Plan, sources: list[Source]) -> tuple[list[Unit], list[Spool]]:
    """Tokenise what is not yet tokenised; the pieces of work in order, and their results."""
    done: list[Unit] = []
    size = sum(source.bytes for source in sources)
    with Progress(size) as progress:

        def to_do() -> Iterator[Unit]:
            for unit in units(sources, plan.cutting):
                done.append(replace(unit, block=b""))
                if finished(unit.spool):
                    progress.skip(unit.bytes)
                else:
                    yield unit

        def report(unit: Unit, record: SpoolRecord) -> None:
            progress.add(unit.bytes, record.tokens)

        if plan.workers == 1 or size <= plan.cutting.unit_bytes:
            tokenise_here(to_do(), plan.tokenising, report)
        else:
            tokenise_in_processes(to_do(), plan.tokenising, report, workers=plan.workers)
    if progress.skipped:
        _log.info("%d of %d pieces of work were done by an earlier run", progress.skipped, len(done))
    return done, [Spool(unit.spool) for unit in done]


def _packed(
    plan: Plan, sources: list[Source], before: Before | None, done: list[Unit], spools: list[Spool]
) -> Manifest:
    shutil.rmtree(plan.packed, ignore_errors=True)
    spooled = by_domain({source.domain for source in sources}, done, spools)
    rejected = {
        name: check_rejected(name, part, plan.max_rejected_fraction) for name, part in spooled.items()
    }
    ledger = Ledger(plan.packed, before.manifest.runs + 1 if before else 1)
    ledger.folder.mkdir(parents=True)
    known = before.ledger.documents if before else None
    duplicates = find_duplicates(spools, plan.directory, known, ledger.documents)
    inputs = [*(before.ledger.inputs() if before else ())]
    inputs += [Input(s.domain, s.name, s.bytes, s.fingerprint) for s in sources]
    domains, tails = dict(before.manifest.domains if before else {}), before.ledger.tails() if before else {}
    for name, part in spooled.items():
        packer = DomainPacker(name, plan.packing, domains.get(name), tails.get(name, {}))
        own = [item for item in inputs if item.domain == name]
        domains[name] = packer.pack(plan.packed / name, part, duplicates, rejected[name], own)
        tails[name] = packer.tails
    ledger.write(inputs, tails)
    manifest = _manifest(plan, domains, ledger.run)
    write_manifest(plan.packed, manifest)
    return manifest


def _manifest(plan: Plan, domains: dict[str, DomainRecord], runs: int) -> Manifest:
    domains = {name: domains[name] for name in sorted(domains)}
    return Manifest(
        tokenizer=plan.tokenizer,
        sequence_length=plan.packing.sequence_length,
        token_type=plan.packing.token_type,
        prepend_bos=plan.prepend_bos,
        append_eos=plan.append_eos,
        domains=domains,
        text_field=plan.cutting.text_field,
        shares=asdict(plan.packing.shares),
        tokens=asdict(plan.packing.tokens),
        runs=runs,
        fingerprint=content_fingerprint(
            plan.tokenizer, plan.packing.sequence_length, plan.packing.token_type, domains
        ),
    )
