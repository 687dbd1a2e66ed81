"""The first stage: sections are tokenised, by whoever is free, and what is known of them is gathered."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.preparing.executors import Executor
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.ledger import Input, Ledger, new_sources
from shear_lit.data.preparing.pipelines import pipeline_sections
from shear_lit.data.preparing.reporting import StageProgress
from shear_lit.data.preparing.sections import DonePiece, Held, Section, SectionFiles, stamps
from shear_lit.data.text.kind import PIPELINE
from shear_lit.data.text.pieces import Piece
from shear_lit.data.text.sources import Source
from shear_lit.data.tokens.encoding import NOTHING, Encoded, contents_of, encode, joined
from shear_lit.data.tokens.spools import SpoolRecord

_NAMED = 3  # inputs that are missing
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Before:
    """The data set that a run adds to."""

    manifest: Manifest
    """What it holds."""
    ledger: Ledger
    """What it keeps for this."""


@dataclass
class Tokenised:
    """What was tokenised of one domain in this run."""

    held: list[Held] = field(default_factory=list)
    """Its documents, in order."""
    pieces: list[tuple[Piece, SpoolRecord]] = field(default_factory=list)
    """Its pieces of work, as far as ``report_rejected`` asks, and what their spools hold."""
    inputs: list[Input] = field(default_factory=list)
    """What was read, without what the data holds already."""

    def rejected(self) -> Counter[str]:
        """Documents that cannot be used, by reason."""
        return sum((Counter(record.rejected) for _, record in self.pieces), Counter())


def tokenise(
    job: Job, own: Sequence[Section], before: Before | None, executor: Executor, *, trusting: bool
) -> None:
    """Tokenise sections, and write what is known of them.

    Args:
        job: The run.
        own: The sections; with ``before``, each holds the whole of its inputs.
        before: The data that is added to: an input that it holds is read, and not tokenised.
        executor: Who does the tasks.
        trusting: Whether a section that is done is left alone if its files have the same size and time as before;
            otherwise they are read, and those of their pieces are left alone that have the same documents.

    Raises:
        DataError: an input cannot be read, or has changed since it was prepared.
    """
    files = SectionFiles(job, before.manifest if before else None)
    left = [section for section in own if not (trusting and files.is_done(section))]
    if len(left) < len(own):
        _log.info("%d of %d sections were done before", len(own) - len(left), len(own))
    seen = [stamps(section.sources) for section in left]
    new = _new(job, left, before, executor)
    todo = [[source for source in section.sources if new is None or source in new] for section in left]
    done: dict[int, dict[int, tuple[Piece, Encoded]]] = {number: {} for number in range(len(left))}
    counts: dict[int, int] = {}
    again = total = 0

    def tasks() -> Iterator[tuple[int, int, Piece]]:
        for number, section in enumerate(left):
            count = 0
            for piece in section.pieces(job, todo[number]):
                yield number, count, piece
                count += 1
            counts[number] = count
            finish(number)

    def finish(number: int) -> None:
        """Write what is known of a section, once its pieces are counted and all of them are done."""
        if number in counts and len(done[number]) == counts[number]:
            results = done.pop(number)
            known = [source for source in left[number].sources if source not in todo[number]]
            files.write(left[number], known, [results[n] for n in range(len(results))], seen[number])

    with StageProgress("Tokenising", [source for own in todo for source in own]) as progress:
        for (number, index, piece), encoded in executor.run(partial(_encode, job), tasks()):
            done[number][index] = replace(piece, block=b""), encoded
            total, again = total + 1, again + encoded.again
            progress.add_piece(piece.bytes, encoded.record.documents)
            finish(number)
    if done:
        raise RuntimeError(f"{len(done)} sections were not finished: the executor has lost results")
    if again:
        _log.info("%d of %d pieces of work were done by an earlier run", again, total)


def gathered(job: Job, all_sections: Sequence[Section], before: Before | None) -> dict[str, Tokenised]:
    """What is known of all domains, in the order of their names.

    Raises:
        DataError: not all of it is done.
    """
    files = SectionFiles(job, before.manifest if before else None)
    known = before.ledger.inputs() if before else []
    domains: dict[str, Tokenised] = {}
    contents: dict[str, list[tuple[Piece, tuple[int, ...]]]] = {}
    inputs: dict[str, dict[Source, None]] = {}
    missing: list[Section] = []
    for section in _resolved(job, all_sections, known):
        own = domains.setdefault(section.domain, Tokenised())
        of_domain = inputs.setdefault(section.domain, {})
        if (record := files.read(section)) is None:
            missing.append(section)
            continue
        of_domain |= dict.fromkeys(s for n, s in enumerate(section.sources) if n not in record.known)
        own.held.append(files.documents(section, record))
        for done in record.pieces:
            piece = _piece(section, done)
            own.pieces.append((piece, done.record))
            found = tuple(int(content, 16) for content in done.contents)
            contents.setdefault(section.domain, []).append((piece, found))
    if missing:
        raise _missing(missing, len(all_sections))
    for name, own in domains.items():
        found_in = joined(contents.get(name, ()))
        own.inputs = [Input(name, s.name, s.bytes, found_in.get(s.name, NOTHING)) for s in inputs[name]]
    return {name: domains[name] for name in sorted(domains) if domains[name].inputs or before is None}


def _resolved(job: Job, all_sections: Sequence[Section], known: Sequence[Input]) -> Iterator[Section]:
    """The sections, with those that a pipeline gave in place of its name."""
    for section in all_sections:
        if section.sources[0].kind == PIPELINE:
            yield from pipeline_sections(job, section.domain, known)
        else:
            yield section


def _piece(section: Section, done: DonePiece) -> Piece:
    """A piece of work, as far as it is asked where its documents lie."""
    names = tuple(section.sources[number].name for number in done.inputs)
    together = names if section.sources[0].kind == "text" else ()
    return Piece(domain=section.domain, name=names[0], kind="", bytes=0, names=together)


def _missing(missing: Sequence[Section], count: int) -> DataError:
    names = list(dict.fromkeys(repr(source.name) for section in missing for source in section.sources))
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return DataError(
        f"'select': {len(missing)} of {count} sections of the inputs are not tokenised: {shown}. Run `--stage "
        "tokenise` again for the parts that have not ended; `--stage tokenise --part 1/1` does all that is left.",
        key="stage",
    )


def _new(job: Job, left: Sequence[Section], before: Before | None, executor: Executor) -> set[Source] | None:
    """The inputs that the data does not hold yet; none, where all are to be tokenised without a look."""
    if before is None or not left:
        return None
    sources = [source for section in left for source in section.sources]
    by_domain: dict[str, list[tuple[Piece, tuple[int, ...]]]] = {}
    with StageProgress("Looking for what is new", sources) as progress:
        pieces = (piece for section in left for piece in section.pieces(job, section.sources))
        for piece, found in executor.run(partial(contents_of, job), pieces):
            by_domain.setdefault(piece.domain, []).append((replace(piece, block=b""), found))
            progress.add_piece(piece.bytes)
    found_in = {domain: joined(own) for domain, own in by_domain.items()}
    contents = [found_in.get(s.domain, {}).get(s.name, NOTHING) for s in sources]
    return set(new_sources(sources, contents, before.ledger.inputs()))


def _encode(job: Job, task: tuple[int, int, Piece]) -> Encoded:
    return encode(job, task[2])
