"""Raw text to prepared data: tokenised, packed, in splits that share no document."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from shear_lit.data.documents import DocumentReader, SplitShares, domain_files
from shear_lit.data.errors import DataError
from shear_lit.data.manifest import (
    DomainRecord,
    Manifest,
    SplitRecord,
    TokenizerRecord,
    check_domain_name,
    write_manifest,
)
from shear_lit.data.packing import CHUNK_BYTES, SplitWriter

_BYTES_PER_TOKEN = 2  # of raw text, at least: usual text has 3 to 5
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 512, 4_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What to prepare, and how."""

    domains: dict[str, str | list[str]]
    """Text files by domain: a path, a glob, or a list of these; `.jsonl`, one document per line."""
    tokenizer: str
    """Hugging Face directory or name of the source model's tokenizer."""
    output: str
    """Directory to write; must be empty or absent."""
    sequence_length: int = 4096
    """Tokens per packed sequence."""
    text_field: str = "text"
    """Field of each JSON object that holds the document."""
    shares: SplitShares = field(default_factory=SplitShares)
    """Fractions of the documents for stage 1, stage 2 and validation."""
    append_eos: bool = True
    """Whether each document ends with the tokenizer's EOS token."""
    prepend_bos: bool = False
    """Whether each document begins with the tokenizer's BOS token."""
    max_rejected_fraction: float = 0.01
    """Fraction of a domain's documents that may be unusable (malformed, empty, invalid UTF-8) before it is refused."""
    chunk_bytes: int = CHUNK_BYTES
    """Size in bytes that each file of packed sequences aims at."""

    def __post_init__(self) -> None:
        if not self.domains:
            raise DataError(
                "domains is empty: there is nothing to prepare. Name the text files of each domain."
            )
        for name in self.domains:
            check_domain_name(name)
        if self.sequence_length < 2:
            raise DataError(
                f"sequence_length={self.sequence_length}: a sequence needs a token to predict from and one to predict. "
                "Use 2 or more."
            )
        if not 0 <= self.max_rejected_fraction <= 1:
            raise DataError(
                f"max_rejected_fraction={self.max_rejected_fraction} is no fraction: use a number between 0 and 1."
            )
        if self.chunk_bytes < 1:
            raise DataError(
                f"chunk_bytes={self.chunk_bytes} is no size: use 1 or more; the default is {CHUNK_BYTES}."
            )


def prepare(settings: PrepareSettings) -> Manifest:
    """Tokenise, split and pack ``settings.domains`` into ``settings.output``, which then is whole, or is not there.

    Raises:
        DataError: a setting cannot be met: files, output, tokenizer, disk, too much unusable text, too small a split.
    """
    output = Path(settings.output)
    _check_output(output)
    files = domain_files(settings.domains)
    tokenizer = _loaded_tokenizer(settings.tokenizer)
    _check_added_tokens(settings, tokenizer)
    record = _tokenizer_record(settings.tokenizer, tokenizer)
    token_type = "uint16" if record.vocabulary <= 1 << 16 else "uint32"
    _check_disk(output, files, 2 if token_type == "uint16" else 4)

    partial = output.with_name(f"{output.name}.partial")
    if partial.exists():
        _log.warning("removing %s, left by a run that was stopped", partial)
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        domains = {
            name: _prepare_domain(name, files[name], partial / name, tokenizer, token_type, settings)
            for name in sorted(files)
        }
        manifest = _manifest(settings, record, token_type, domains)
        write_manifest(partial, manifest)
        os.replace(partial, output)  # noqa: PTH105 (the standard's word for "atomic"; an empty directory may be there)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's serialised form: the same for the same tokenizer wherever it lies.

    Truncation and padding are left out: they are settings of the last call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    for transient in ("truncation", "padding"):
        content.pop(transient, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tokenizer_record_of(name: str) -> TokenizerRecord:
    """What a manifest says of the tokenizer in a local directory or on the hub.

    Raises:
        DataError: there is none that can be loaded.
    """
    return _tokenizer_record(name, _loaded_tokenizer(name))


def tokenizer_fingerprint_of(source: str) -> str:
    """The fingerprint of the tokenizer beside a model, in a local directory or on the hub.

    Raises:
        DataError: there is none that can be loaded.
    """
    try:
        return tokenizer_fingerprint(AutoTokenizer.from_pretrained(Path(source).expanduser()))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"model.source={source!r} has no tokenizer that can be loaded ({error}), so that nothing tells whether the "
            f"data suits the model. Copy the model's tokenizer files into its directory."
        ) from error


def _check_output(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(
            f"output={str(output)!r} is not an empty directory: nothing is ever overwritten. "
            "Choose another directory, or remove it."
        )


def _check_disk(output: Path, files: dict[str, list[Path]], token_bytes: int) -> None:
    text = sum(path.stat().st_size for path in chain.from_iterable(files.values()))
    needed = text * token_bytes // _BYTES_PER_TOKEN
    existing = next(parent for parent in output.absolute().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DataError(
            f"output={str(output)!r}: {free / 1e9:.2f} GB are free there, and {text / 1e9:.2f} GB of text may become "
            f"{needed / 1e9:.2f} GB of tokens. Make space, or choose a directory on another disk."
        )


def _loaded_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(Path(name).expanduser())
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"tokenizer={name!r} cannot be loaded ({error}): a Hugging Face directory or name is expected. Correct it."
        ) from error
    if not tokenizer.is_fast:
        raise DataError(
            f"tokenizer={name!r} has no fast version, which is needed here. Convert it to tokenizer.json."
        )
    return tokenizer


def _check_added_tokens(settings: PrepareSettings, tokenizer: PreTrainedTokenizerBase) -> None:
    for wanted, token, key in (
        (settings.append_eos, tokenizer.eos_token_id, "append_eos"),
        (settings.prepend_bos, tokenizer.bos_token_id, "prepend_bos"),
    ):
        if wanted and token is None:
            raise DataError(
                f"{key}=true: tokenizer {settings.tokenizer!r} has no such token. Use --{key} false."
            )


def _tokenizer_record(name: str, tokenizer: PreTrainedTokenizerBase) -> TokenizerRecord:
    return TokenizerRecord(
        name=name,
        fingerprint=tokenizer_fingerprint(tokenizer),
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
    )


def _prepare_domain(
    name: str,
    files: list[Path],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    token_type: str,
    settings: PrepareSettings,
) -> DomainRecord:
    length, chunk_bytes = settings.sequence_length, settings.chunk_bytes
    writers = {
        split: SplitWriter(
            folder / split, sequence_length=length, token_type=token_type, chunk_bytes=chunk_bytes
        )
        for split, share in asdict(settings.shares).items()
        if share > 0
    }
    reader = DocumentReader(name, files, settings.text_field)
    before = [tokenizer.bos_token_id] if settings.prepend_bos else []
    after = [tokenizer.eos_token_id] if settings.append_eos else []
    for texts in _batches(reader):
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for text, tokens in zip(texts, encoded["input_ids"], strict=True):
            writers[settings.shares.split_of(text)].add([*before, *tokens, *after])
    reader.check(settings.max_rejected_fraction)
    splits = {split: writer.finish() for split, writer in writers.items()}
    for split, record in splits.items():
        _check_split_size(name, split, record, settings)
        _log.info("%s/%s: %d documents, %d sequences", name, split, record.documents, record.sequences)
    return DomainRecord(
        documents=reader.accepted, rejected=dict(sorted(reader.rejected.items())), splits=splits
    )


def _check_split_size(domain: str, split: str, record: SplitRecord, settings: PrepareSettings) -> None:
    if not record.sequences:
        share = getattr(settings.shares, split)
        raise DataError(
            f"shares.{split}={share}: domain {domain!r} has {record.documents} documents with {record.tokens} tokens "
            f"in this split, less than one sequence of sequence_length={settings.sequence_length}. "
            f"Raise shares.{split}, lower sequence_length, add text, or set the share to 0 to leave the split out."
        )


def _batches(texts: DocumentReader) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _manifest(
    settings: PrepareSettings, tokenizer: TokenizerRecord, token_type: str, domains: dict[str, DomainRecord]
) -> Manifest:
    chunks = {n: {s: [c.sha256 for c in r.chunks] for s, r in d.splits.items()} for n, d in domains.items()}
    content = [tokenizer.fingerprint, settings.sequence_length, token_type, chunks]
    return Manifest(
        tokenizer=tokenizer,
        sequence_length=settings.sequence_length,
        token_type=token_type,
        prepend_bos=settings.prepend_bos,
        append_eos=settings.append_eos,
        domains=domains,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )
