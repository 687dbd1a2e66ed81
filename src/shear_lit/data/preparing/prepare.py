"""Raw text to prepared data: tokenised, packed, in splits that share no document.

Every input is cut into pieces of work that depend on nothing but the input; each is tokenised into a file of its own in
``<output>.partial``, by whichever process is free. Then duplicates are dropped and the tokens packed, in the order of
the pieces. A run that is stopped, by whatever means, goes on where it was, and ends with the same bytes.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import MANIFEST, Manifest, TokenizerRecord
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.assembly import Packing
from shear_lit.data.preparing.commit import clear, clear_work, commit, locked, output_place
from shear_lit.data.preparing.ledger import ledger_of, new_sources
from shear_lit.data.preparing.run import Before, Plan, run
from shear_lit.data.preparing.settings import PrepareSettings
from shear_lit.data.preparing.workers import disk_error
from shear_lit.data.text.sources import Kind, Source, find_sources
from shear_lit.data.text.units import Cutting
from shear_lit.data.tokens.encoding import Tokenising
from shear_lit.data.tokens.tokenizer import TextTokenizer, load_tokenizer

_BYTES_PER_TOKEN = 4  # of raw text, about: usual text has 3 to 5
_COMPRESSION = {Kind.GZIP: 3, Kind.ZSTANDARD: 3, Kind.TABLE: 2}  # about


def prepare(settings: PrepareSettings) -> Manifest:
    """Tokenise, split and pack ``settings.domains`` into ``settings.output``, or add to it what is new.

    A first run's output is whole, or not there. What is added is there with the last file that is written, the
    manifest; until then the data set is what it was. A run that fails or is stopped keeps what it tokenised in
    ``<output>.partial``, and the next one goes on from there, with whatever of it suits its settings and files.

    Raises:
        DataError: a setting cannot be met: files, output, tokenizer, disk, too much unusable text, too small a split.
    """
    output = output_place(settings.output)
    _earlier(output)  # what cannot be written to is refused before anything is made beside it
    partial = output.with_name(f"{output.name}.partial")
    try:
        with locked(partial):
            manifest = _prepared(settings, output, partial)
            clear(output, manifest)
            clear_work(partial)
    except OSError as error:
        raise disk_error(partial, error) from error
    return manifest


def _prepared(settings: PrepareSettings, output: Path, partial: Path) -> Manifest:
    """Do what is to be done, while no other run can change the output."""
    earlier, before = _earlier(output), None
    sources = find_sources(settings.domains)
    tokenizer = load_tokenizer(settings.tokenizer)
    _check_special_tokens(settings, tokenizer)
    record = tokenizer.record()
    if earlier is not None:
        _check_same_settings(earlier, settings, tokenizer)
        record = replace(
            record, fingerprint=earlier.tokenizer.fingerprint
        )  # an earlier version may have written it
        before = Before(earlier, ledger_of(output, earlier))
        sources = new_sources(sources, before.ledger.inputs())
        if not sources:
            return earlier
    plan = _plan(settings, record, tokenizer, partial)
    _check_disk(output, partial, sources, 2 if plan.packing.token_type == "uint16" else 4)
    manifest = run(plan, sources, before, tokenizer.backend.to_str())
    commit(plan.packed, output)
    return manifest


def _plan(
    settings: PrepareSettings, record: TokenizerRecord, tokenizer: TextTokenizer, partial: Path
) -> Plan:
    token_type = "uint16" if record.vocabulary <= 1 << 16 else "uint32"
    tokenising = Tokenising(
        tokenizer=str(partial / "tokenizer.json"),
        split_special_tokens=tokenizer.split_special_tokens,
        before=(record.bos_id,) if settings.prepend_bos and record.bos_id is not None else (),
        after=(record.eos_id,) if settings.append_eos and record.eos_id is not None else (),
        token_type=token_type,
        text_field=settings.text_field,
        max_document_bytes=settings.max_document_bytes,
    )
    return Plan(
        directory=partial,
        tokenising=tokenising,
        cutting=Cutting(
            spool=partial / "spool",
            settings=json.dumps(asdict(tokenising) | {"tokenizer": record.fingerprint}),
            unit_bytes=settings.unit_bytes,
            text_field=settings.text_field,
            max_document_bytes=settings.max_document_bytes,
        ),
        packing=Packing(
            sequence_length=settings.sequence_length,
            token_type=token_type,
            chunk_bytes=settings.chunk_bytes,
            shares=settings.shares,
            tokens=settings.tokens,
        ),
        tokenizer=record,
        prepend_bos=settings.prepend_bos,
        append_eos=settings.append_eos,
        max_rejected_fraction=settings.max_rejected_fraction,
        workers=settings.workers,
    )


def _earlier(output: Path) -> Manifest | None:
    """The manifest of the data that is there already, if there is any."""
    if (output / MANIFEST).is_file():
        try:
            return read_manifest(output)
        except DataError as error:
            error.key = "output"
            raise
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(
            f"{str(output)!r} is not an empty directory, nor does it hold prepared data to which files could "
            "be added: nothing is ever overwritten. Choose another directory, or remove it.",
            key="output",
        )
    return None


def _check_same_settings(earlier: Manifest, settings: PrepareSettings, tokenizer: TextTokenizer) -> None:
    """Refuse to add to data that was made differently."""
    if not tokenizer.is_of(earlier.tokenizer.fingerprint):
        raise DataError(
            f"{settings.tokenizer!r} (fingerprint {tokenizer.fingerprint[:12]}) is not the one that made what "
            f"is in output={settings.output!r}: {earlier.tokenizer.name!r} ({earlier.tokenizer.fingerprint[:12]}). "
            "Use that one, or prepare into another directory.",
            key="tokenizer",
        )
    for key in ("sequence_length", "prepend_bos", "append_eos", "text_field", "shares", "tokens"):
        asked, found = getattr(settings, key), getattr(earlier, key)
        asked = asdict(asked) if key in ("shares", "tokens") else asked
        if asked != found and (found or key not in ("text_field", "shares", "tokens")):
            raise DataError(
                f"{asked!r}: what is in output={settings.output!r} was prepared with {found!r}, and files "
                f"can only be added in the same way. Use {key}={found!r}, or prepare into another directory.",
                key=key,
            )


def _check_special_tokens(settings: PrepareSettings, tokenizer: TextTokenizer) -> None:
    for wanted, token, key in (
        (settings.append_eos, tokenizer.eos_id, "append_eos"),
        (settings.prepend_bos, tokenizer.bos_id, "prepend_bos"),
    ):
        if wanted and token is None:
            raise DataError(
                f"true: tokenizer {settings.tokenizer!r} has no such token. Use --{key} false.", key=key
            )


def _check_disk(output: Path, partial: Path, sources: list[Source], token_bytes: int) -> None:
    text = sum(source.bytes * _COMPRESSION.get(source.kind, 1) for source in sources)
    there = sum(path.stat().st_size for path in (partial / "spool").glob("*"))
    needed = 2 * text * token_bytes // _BYTES_PER_TOKEN - there  # each token is spooled, then packed
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise DataError(
            f"{str(output)!r}: {free / 1e9:.2f} GB are free there, and {text / 1e9:.2f} GB of text may take "
            f"{needed / 1e9:.2f} GB while it is prepared. Make space, or choose a directory on another disk.",
            key="output",
        )
