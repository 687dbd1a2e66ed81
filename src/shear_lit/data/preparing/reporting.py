"""What a run of ``prepare`` says: how far it is, what it could not use, and the table and the page in the end."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import DomainRecord, Manifest, SplitRecord
from shear_lit.data.text.documents import listed
from shear_lit.data.text.pieces import Piece
from shear_lit.data.text.sources import Source
from shear_lit.data.tokens.encoding import REPORTED
from shear_lit.data.tokens.spools import SpoolRecord
from shear_lit.progress import Progress

_HEADS = ("documents", "tokens", "sequences", "share", "left over", "padding", "duplicates")
_OF_CHAT = ("turns", "cuts", "learned")
_log = logging.getLogger(__name__)


class StageProgress(Progress):
    """The progress of one stage that goes through all inputs."""

    def __init__(self, stage: str, sources: Sequence[Source]) -> None:
        """Begin with all of ``sources`` to go."""
        super().__init__(stage, sum(source.bytes for source in sources), "B", bytes_of=True)
        self._documents = 0

    def add_piece(self, size: int, documents: int = 0) -> None:
        """Count a piece of work that is done."""
        self._documents += documents
        self.add(size, f"{self._documents:,} documents" if documents else "")


def report_rejected(
    name: str,
    pieces: Sequence[tuple[Piece, SpoolRecord]],
    max_rejected_fraction: float,
    field_key: str = "text_field",
) -> Counter[str]:
    """Report what could not be used of a domain, and count it by reason; ``field_key`` names the field of documents.

    Raises:
        DataError: it is more than ``max_rejected_fraction`` of the documents.
    """
    rejected: Counter[str] = Counter()
    first: list[str] = []
    before, of_input, documents = 0, "", 0
    for piece, record in pieces:
        before = before if piece.name == of_input else 0
        rejected.update(record.rejected)
        first += [f"{piece.place(number, before)}: {reason}" for number, reason in record.first]
        before, of_input, documents = before + record.numbers, piece.name, documents + record.documents
    if count := rejected.total():
        seen = count + documents
        for where in first[:REPORTED]:
            _log.warning("domain %s: rejected %s", name, where)
        _log.warning("domain %s: %d of %d documents rejected: %s", name, count, seen, listed(rejected))
        if count > max_rejected_fraction * seen:
            raise DataError(
                f"{max_rejected_fraction}: {count} of {seen} documents of domain {name!r} "
                f"cannot be used ({listed(rejected)}). The first: {'; '.join(first[:REPORTED])}. "
                f"Repair the files, correct {field_key}, or raise max_rejected_fraction.",
                key="max_rejected_fraction",
            )
    return rejected


def summary(manifest: Manifest) -> str:
    """A row for each domain and split, a line for what was left out, and how the tokens fall on the domains."""
    lines = [f"{'domain':<20}{'split':<12}{''.join(f'{head:>14}' for head in _heads(manifest))}"]
    for name, split, cells in _rows(manifest):
        lines.append(f"{name:<20}{split:<12}{''.join(f'{cell:>14}' for cell in cells)}")
    lines += [f"{name:<20}{text}" for name, text in _left_out(manifest)]
    return "\n".join(lines)


def page(manifest: Manifest, inputs: Sequence[tuple[str, str, int]]) -> str:
    """The page, in Markdown: what the data is, what each domain has, and what it was made of.

    ``inputs`` are the domain, the name and the bytes of each.
    """
    tokenizer = manifest.tokenizer
    special = {True: "text", False: "tokens", None: "not known"}[manifest.split_special_tokens]
    facts = [
        (
            "tokenizer",
            f"{tokenizer.name} ({tokenizer.vocabulary:,} entries, fingerprint {tokenizer.fingerprint[:12]})",
        ),
        (
            "sequences",
            f"{manifest.sequence_length:,} tokens of {manifest.token_type}, packed by {manifest.packing}",
        ),
        ("documents", f"BOS {_said(manifest.prepend_bos)}, EOS {_said(manifest.append_eos)}"),
        *_facts_of_chat(manifest),
        ("names of special tokens in a text are", special),
        ("data fingerprint", manifest.fingerprint),
    ]
    parts = [
        "# Prepared data",
        "Written by `shear-lit prepare`; `shear-lit data` shows some of its text, `shear-lit prepare --check` verifies "
        "it.",
        _table(("", ""), facts),
        "## Domains and splits",
        _table(
            ("domain", "split", *_heads(manifest)),
            [(name, split, *cells) for name, split, cells in _rows(manifest)],
        ),
        "Share: of all tokens of the split. Left over: tokens that fill no sequence yet. Duplicates: documents that "
        "would be in the split, had their text not come before.",
    ]
    if manifest.chat is not None:
        parts.append(
            "Documents are conversations. Turns: answers of the assistant. Cuts: where a conversation is cut, as it is "
            "longer than a sequence. Learned: tokens of the assistant, which are to be predicted."
        )
    if left_out := list(_left_out(manifest)):
        parts += ["## Left out", _table(("domain", "documents"), left_out)]
    parts += _contamination(manifest)
    parts += ["## Inputs", _table(("domain", "input", "bytes"), [(d, n, f"{b:,}") for d, n, b in inputs])]
    return "\n\n".join(parts) + "\n"


def _heads(manifest: Manifest) -> tuple[str, ...]:
    return _HEADS if manifest.chat is None else (*_HEADS, *_OF_CHAT)


def _facts_of_chat(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.chat is not None:
        yield "chat template", f"{manifest.chat.template.name} (SHA-256 {manifest.chat.sha256[:12]})"
        if manifest.chat.allowed:
            yield "allowed in messages", ", ".join(manifest.chat.allowed)


def _rows(manifest: Manifest) -> Iterator[tuple[str, str, list[str]]]:
    total: dict[str, int] = {}
    for domain in manifest.domains.values():
        for split, record in domain.splits.items():
            total[split] = total.get(split, 0) + record.tokens
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            yield name, split, _cells(manifest, record, total[split])


def _cells(manifest: Manifest, record: SplitRecord, total: int) -> list[str]:
    held = max(1, record.sequences * manifest.sequence_length)
    return [
        f"{record.documents:,}",
        f"{record.tokens:,}",
        f"{record.sequences:,}",
        f"{record.tokens / max(1, total):.2%}",
        f"{record.tail_tokens:,}",
        f"{record.padding / held:.2%}",
        f"{record.duplicates:,}",
        *(f"{getattr(record, name):,}" for name in (_OF_CHAT if manifest.chat is not None else ())),
    ]


def _left_out(manifest: Manifest) -> Iterator[tuple[str, str]]:
    found = manifest.decontamination.domains if manifest.decontamination else {}
    for name, domain in manifest.domains.items():
        said = [*_of_domain(domain)]
        if name in found and (one := found[name]).documents:
            said.append(
                f"text of evaluation tasks in {one.documents:,} documents, {one.dropped:,} of them dropped"
            )
        if said:
            yield name, ", ".join(said)


def _contamination(manifest: Manifest) -> Iterator[str]:
    """The section on text of evaluation tasks."""
    made = manifest.decontamination
    if made is None:
        return
    yield "## Text of evaluation tasks"
    ignored = f"; {made.ignored:,} more are ignored, which more than {made.most_documents} documents have"
    yield (
        "What documents have in common with questions was cut out, with 200 characters on each side "
        f"(arXiv:2005.14165, appendix C){ignored if made.most_documents else ''}. Counted with duplicates."
    )
    tasks = [
        (t.name, f"{t.examples:,}", f"{t.too_short:,}", f"{t.words}", f"{t.grams:,}") for t in made.tasks
    ]
    yield _table(("task", "questions", "too short", "words of a gram", "grams"), tasks)
    heads = ("documents with such text", "dropped", "pieces of the others", "characters cut out")
    counts = [
        (name, *(f"{count:,}" for count in (one.documents, one.dropped, one.pieces, one.characters)))
        for name, one in made.domains.items()
    ]
    yield _table(("domain", *heads), counts)
    by_task = [(n, t, f"{count:,}") for n, one in made.domains.items() for t, count in one.tasks.items()]
    if by_task:
        yield _table(("domain", "task", "documents"), by_task)
        examples = [(e.place, e.task, e.text) for one in made.domains.values() for e in one.examples]
        yield _table(("for example", "task", "text"), examples)


def _of_domain(domain: DomainRecord) -> Iterator[str]:
    if domain.duplicates:
        yield f"{domain.duplicates:,} duplicates"
    if domain.rejected:
        yield f"{sum(domain.rejected.values()):,} rejected ({listed(domain.rejected)})"
    if domain.unused:
        yield f"{domain.unused:,} documents that no split wanted"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """A cell that stays one, whatever a file is called."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
    return shown.replace("|", "\\|")


def _said(added: bool) -> str:  # noqa: FBT001 (it is the thing said)
    return "added" if added else "not added"
