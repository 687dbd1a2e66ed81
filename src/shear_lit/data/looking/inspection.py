"""What a person wants to see of prepared data: its manifest as a table, and some of its text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from textwrap import indent
from typing import Any, cast

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.serving.store import SequenceStore

_OF_CHAT = ("turns", "cuts", "learned")
_TITLES = {"tail_tokens": "dropped"}  # where a column's title is not the name of its field

_PACKINGS = {
    "concatenate": "one document after the other",
    "best_fit": "by best fit, no document cut that fits",
}
_SPECIAL = {True: "read as text", False: "kept as such tokens", None: "treated in a way that is not known"}


def described(manifest: Manifest) -> str:
    """What made the data, a row for each domain and split, and what was left out."""
    tokenizer = manifest.tokenizer
    head = [
        f"tokenizer {printable(tokenizer.name)} (fingerprint {tokenizer.fingerprint[:12]}, "
        f"{tokenizer.vocabulary:,} entries)",
        f"sequences of {manifest.sequence_length:,} tokens as {manifest.token_type}; "
        f"BOS {_said(manifest.prepend_bos)}, EOS {_said(manifest.append_eos)}; data {manifest.fingerprint[:12]}",
        f"packed {_PACKINGS[manifest.packing]}; special tokens in text {_SPECIAL[manifest.split_special_tokens]}",
    ]
    if manifest.chat is not None:
        name = printable(manifest.chat.template.name)
        head.append(f"conversations by the chat template {name} (SHA-256 {manifest.chat.sha256[:12]})")
    splits = [
        (n, split, record)
        for n, domain in manifest.domains.items()
        for split, record in domain.splits.items()
    ]
    rows = [{"domain": n, "split": split, **_numbers(r), "sequences": r.sequences} for n, split, r in splits]
    if manifest.chat is None:
        rows = [{title: cell for title, cell in row.items() if title not in _OF_CHAT} for row in rows]
    if any(record.padding for _, _, record in splits):
        for row, (_, _, record) in zip(rows, splits, strict=True):
            row["padding"] = record.padding / max(1, record.sequences * manifest.sequence_length)
    return "\n".join([*head, "", table(rows), *_left_out(manifest)])


def printable(text: str) -> str:
    """``text`` with what would steer a terminal written out; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _said(added: bool) -> str:  # noqa: FBT001 (it is the thing said)
    return "added" if added else "not added"


def _numbers(record: Any) -> dict[str, int | float]:
    """The fields of a record that are numbers, whichever it has."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    del values["padding"]  # which is shown as a share, where there is any
    return {_TITLES.get(name, name): v for name, v in values.items() if isinstance(v, (int, float))}


def _left_out(manifest: Manifest) -> Iterator[str]:
    for name, domain in manifest.domains.items():
        counts = {**domain.rejected, **({"in no split": domain.unused} if domain.unused else {})}
        if counts:
            yield f"{name}: left out: " + ", ".join(
                f"{count:,} {printable(reason)}" for reason, count in counts.items()
            )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """``rows`` with equal keys as text in columns; numbers to the right, thousands apart."""
    cells = [[str(title) for title in rows[0]], *([_cell(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [not isinstance(value, str) for value in rows[0].values()]
    lines = []
    for line in cells:
        parts = [
            c.rjust(width) if to_right else c.ljust(width)
            for c, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def shown_text(
    store: SequenceStore, decode: Callable[[list[int]], str], *, sequences: int, characters: int
) -> str:
    """The text of ``sequences`` of each domain, evenly spread over it, as far as the first ``characters`` of each.

    Raises:
        DataError: a number that makes no sense.
    """
    if sequences < 1 or characters < 0:
        raise DataError(
            f"{sequences}, characters={characters}: at least one sequence and no negative number of "
            "characters can be shown. Correct it; characters=0 shows whole sequences.",
            key="sequences",
        )
    parts = []
    for index, name in enumerate(store.domains):
        there = store.sequences(index)
        wanted = min(sequences, there)
        for number in (there * k // wanted for k in range(wanted)):
            text = decode(store[index, number]["tokens"][0].tolist())
            shown = printable(text if characters == 0 else text[:characters])
            more = (
                f" (the first {characters:,} of {len(text):,} characters)"
                if 0 < characters < len(text)
                else ""
            )
            parts.append(f"{name}, sequence {number:,} of {there:,}{more}\n{indent(shown, '    ')}")
    return "\n\n".join(parts)


def decoder_of(manifest: Manifest, tokenizer: str | None = None) -> Callable[[list[int]], str]:
    """What turns token ids into text; ``tokenizer`` names another place of the tokenizer than the manifest does.

    Raises:
        DataError: it cannot be loaded, or is another one than made the tokens.
    """
    from shear_lit.data.tokens.tokenizer import load_tokenizer

    name = manifest.tokenizer.name if tokenizer is None else tokenizer
    try:
        loaded = load_tokenizer(name)
    except DataError as error:
        raise DataError(
            f"{error.args[0]} It made the data, and without it there is no text: name a directory that holds it with "
            "--tokenizer, or leave --sequences out.",
            key="tokenizer",
        ) from error
    if not loaded.is_of(manifest.tokenizer.fingerprint):
        raise DataError(
            f"{name!r} is another one (fingerprint {loaded.fingerprint[:12]}) than made the tokens "
            f"({manifest.tokenizer.name!r}, {manifest.tokenizer.fingerprint[:12]}): they would give other text. "
            "Name a directory that holds that one with --tokenizer.",
            key="tokenizer",
        )
    return lambda tokens: cast(str, loaded.backend.decode(tokens, skip_special_tokens=False))
