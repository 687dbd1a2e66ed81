"""What a prepared data directory holds, and whether it is whole.

``<directory>/manifest.json`` is written last; ``<directory>/<domain>/<split>/`` holds the litdata chunks of packed
sequences and their ``index.json``. While files are added, an index may list chunks that the manifest does not yet have,
after those that it has: what the manifest says is there all the time. ``<directory>/.ledger/`` is for adding files.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.splits import SPLITS as SPLITS
from shear_lit.data.splits import Bounds

FORMAT = 2
"""The version of the layout that this package writes; 1, which has fewer facts, can be read as well."""
MANIFEST, INDEX = "manifest.json", "index.json"

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer that made the tokens."""

    name: str
    """The name or directory it was loaded from."""
    fingerprint: str
    """SHA-256 of its serialised form: the same for the same tokenizer wherever it lies."""
    vocabulary: int
    """Entries of the vocabulary: the largest token id plus one."""
    bos_id: int | None
    """The token that begins a text, if it has one."""
    eos_id: int | None
    """The token that ends a text, if it has one."""


@dataclass(frozen=True, kw_only=True)
class ChunkRecord:
    """One file of packed sequences."""

    file: str
    """Name inside the folder of its domain and split."""
    bytes: int
    """Size of the file."""
    sequences: int
    """Sequences in it."""
    sha256: str
    """Hash of the file."""


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """What one split of one domain holds."""

    documents: int
    """Documents in it."""
    tokens: int
    """Tokens of these documents, added BOS and EOS included."""
    tail_tokens: int
    """Tokens at the end that did not fill a sequence and were dropped."""
    chunks: tuple[ChunkRecord, ...]
    """Its files, in order."""
    duplicates: int = 0
    """Documents that would be in it, had their text not come before."""

    @property
    def sequences(self) -> int:
        """Packed sequences in it."""
        return sum(chunk.sequences for chunk in self.chunks)


@dataclass(frozen=True, kw_only=True)
class DomainRecord:
    """What was read of one domain, and where it went."""

    documents: int
    """Documents in its splits."""
    rejected: dict[str, int]
    """Documents that could not be used, by reason."""
    splits: dict[str, SplitRecord]
    """What each split holds."""
    duplicates: int = 0
    """Documents that were dropped because their text, case and white space aside, came before in any domain."""
    unused: int = 0
    """Documents that no split wanted, where all are sized in tokens."""
    bounds: Bounds = field(default_factory=dict)
    """The places, in [0, 1], of the documents of each split; they stay as they are when files are added."""
    inputs: int = 0
    """Files and data sets that were read."""
    bytes: int = 0
    """Their size."""
    inputs_fingerprint: str = ""
    """SHA-256 over the fingerprints of these."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A prepared data set."""

    tokenizer: TokenizerRecord
    """What made the tokens."""
    sequence_length: int
    """Tokens of one packed sequence."""
    token_type: str
    """``uint16`` or ``uint32``."""
    prepend_bos: bool
    """Whether each document begins with BOS."""
    append_eos: bool
    """Whether each document ends with EOS."""
    domains: dict[str, DomainRecord]
    """The domains by name."""
    text_field: str = ""
    """Field of each record that held the document; empty if it is not known."""
    shares: dict[str, float] = field(default_factory=dict)
    """The shares asked for, by split."""
    tokens: dict[str, int] = field(default_factory=dict)
    """The tokens asked for, by split; 0: the share decided."""
    runs: int = 0
    """How often `shear-lit prepare` has written to it; 0: files cannot be added, for there is no ledger."""
    fingerprint: str = ""
    """SHA-256 over all that decides what a model is trained on: the tokenizer, the length and the chunks."""
    format: int = field(default=FORMAT)
    """The version of the layout."""

    def chunk_sizes(self, split: str) -> dict[str, tuple[int, ...]]:
        """Sequences of each chunk of ``split``, by domain.

        Raises:
            DataError: a domain has no such split.
        """
        for name, domain in self.domains.items():
            if split not in domain.splits:
                raise DataError(
                    f"data.split={split!r}: domain {name!r} was prepared with {', '.join(domain.splits)} only. "
                    f"Choose one of these, or run `shear-lit prepare` again with a share for {split!r}."
                )
        return {name: tuple(c.sequences for c in d.splits[split].chunks) for name, d in self.domains.items()}

    def check_tokenizer(self, fingerprint: str, name: str) -> None:
        """Refuse a model whose tokenizer is not the one that made the tokens.

        Raises:
            DataError: ``fingerprint``, that of the tokenizer called ``name``, differs.
        """
        if fingerprint != self.tokenizer.fingerprint:
            raise DataError(
                f"data.directory: the data was tokenised by {self.tokenizer.name!r} "
                f"(fingerprint {self.tokenizer.fingerprint[:12]}), the model's tokenizer {name!r} is another one "
                f"({fingerprint[:12]}): its token ids mean other texts. "
                f"Run `shear-lit prepare --tokenizer {name}`, or choose data made for this model."
            )


def content_fingerprint(
    tokenizer: TokenizerRecord, sequence_length: int, token_type: str, domains: Mapping[str, DomainRecord]
) -> str:
    """SHA-256 over all that decides what a model is trained on: the tokenizer, the length and the chunks."""
    chunks = {n: {s: [c.sha256 for c in r.chunks] for s, r in d.splits.items()} for n, d in domains.items()}
    content = [tokenizer.fingerprint, sequence_length, token_type, chunks]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_domain_name(name: str) -> None:
    """Refuse a domain name that is no safe folder name.

    Raises:
        DataError: it has characters other than letters, digits, ``_``, ``-`` and ``.``, or begins with ``-`` or ``.``.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise DataError(
            f"domains: {name!r} is no safe folder name: use 1 to 100 letters, digits, '_', '-' or '.', "
            "and begin with a letter, digit or '_'. Rename the domain."
        )


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path``, wholly or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_manifest(directory: str | Path, manifest: Manifest) -> None:
    """Write the manifest of ``directory``, wholly or not at all."""
    write_json(Path(directory) / MANIFEST, asdict(manifest))


def read_manifest(directory: str | Path) -> Manifest:
    """Read the manifest of ``directory`` and hold the files against it: presence and sizes, not contents.

    Raises:
        DataError: something is missing, half-written, or not what the manifest says.
    """
    path = Path(directory)
    if not path.is_dir():
        raise DataError(
            f"data.directory={str(directory)!r} is no directory: prepared data is expected there. "
            "Correct the path, or make it with `shear-lit prepare`."
        )
    manifest = _parsed(path)
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            _check_split(path / name / split, record, manifest.sequence_length)
    return manifest


def _parsed(directory: Path) -> Manifest:
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError(
            f"data.directory={str(directory)!r} has no {MANIFEST}: it is half-written or was not prepared. "
            "Run `shear-lit prepare` again."
        )
    return parsed_manifest(path.read_bytes(), str(path))


def parsed_manifest(content: bytes, where: str) -> Manifest:
    """The manifest that the file ``where`` holds; the files that it lists are not looked at.

    Raises:
        DataError: it is no manifest of this version, or names a domain that is no safe folder name.
    """
    try:
        parsed = json.loads(content)
        if parsed.get("format") not in range(1, FORMAT + 1):
            raise DataError(
                f"{where}: format {parsed.get('format')!r}, this version reads 1 to {FORMAT}. "
                "Run `shear-lit prepare` again with this version."
            )
        manifest = _manifest_of(parsed)
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{where} cannot be read as a manifest ({error!r}): it was changed or damaged. "
            "Run `shear-lit prepare` again."
        ) from error
    for name, domain in manifest.domains.items():
        check_domain_name(name)
        for split, record in domain.splits.items():
            for chunk in record.chunks:
                _check_chunk(chunk, split, f"{where}: {name}/{split}")
    return manifest


def _check_chunk(chunk: ChunkRecord, split: str, where: str) -> None:
    """Refuse what would lead out of the folder, or out of a cache: names become paths, and hashes do."""
    safe_names = all(isinstance(name, str) and _SAFE_NAME.fullmatch(name) for name in (split, chunk.file))
    hashed = isinstance(chunk.sha256, str) and _SHA256.fullmatch(chunk.sha256)
    counted = all(type(count) is int and count >= 0 for count in (chunk.bytes, chunk.sequences))
    if not safe_names or not hashed or not counted:
        raise DataError(
            f"{where} lists a chunk with file={chunk.file!r}, sha256={chunk.sha256!r}, bytes={chunk.bytes!r} and "
            f"sequences={chunk.sequences!r}: a plain file name, 64 hexadecimal digits and counts are expected. It was "
            f"changed; run `shear-lit prepare` again."
        )


def _manifest_of(content: dict[str, Any]) -> Manifest:
    domains = {}
    for name, domain in content["domains"].items():
        splits = {
            split: SplitRecord(**{**record, "chunks": tuple(ChunkRecord(**c) for c in record["chunks"])})
            for split, record in domain["splits"].items()
        }
        bounds = {split: (low, high) for split, (low, high) in domain.get("bounds", {}).items()}
        domains[name] = DomainRecord(**{**domain, "splits": splits, "bounds": bounds})
    return Manifest(**{**content, "tokenizer": TokenizerRecord(**content["tokenizer"]), "domains": domains})


def _check_split(folder: Path, record: SplitRecord, sequence_length: int) -> None:
    if (problem := index_problem(folder, record, sequence_length)) is not None:
        raise _damaged(*problem)
    for chunk in record.chunks:
        if (what := size_problem(folder / chunk.file, chunk)) is not None:
            raise _damaged(folder / chunk.file, what)


def index_problem(folder: Path, record: SplitRecord, sequence_length: int) -> tuple[Path, str] | None:
    """What is wrong with the folder of a split or with its index, and which of the two; nothing if all is well."""
    if not folder.is_dir():
        return folder, "the folder is missing"
    try:
        chunks = json.loads((folder / INDEX).read_text(encoding="utf-8"))["chunks"]
        indexed = [(c["filename"], c["chunk_bytes"], c["dim"]) for c in chunks]
    except (OSError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        return folder / INDEX, f"the index cannot be read ({error!r})"
    expected = [(c.file, c.bytes, c.sequences * sequence_length) for c in record.chunks]
    if indexed[: len(expected)] != expected:  # more are there while files are being added
        return folder / INDEX, f"the index does not list the chunks of {MANIFEST}"
    return None


def size_problem(path: Path, chunk: ChunkRecord) -> str | None:
    """What the presence and the size of a file tell against its being ``chunk``; nothing if nothing."""
    if not path.is_file():
        return "the chunk is missing"
    if (found := path.stat().st_size) != chunk.bytes:
        return f"the chunk has {found:,} bytes instead of {chunk.bytes:,}"
    return None


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"data.directory: {path}: {what}: the prepared data is damaged or half-copied. "
        "Copy it again, or run `shear-lit prepare` again."
    )


def check_same_domains(expected: Iterable[str], found: Iterable[str], key: str, where: str) -> None:
    """Refuse two lists of domains that differ, naming each that is missing or unknown.

    Raises:
        DataError: ``key``, as the user types it, does not name the domains that ``where`` has.
    """
    wanted, named = set(expected), set(found)
    if wanted != named:
        missing = f" it lacks {', '.join(sorted(wanted - named))};" if wanted - named else ""
        unknown = f" it has {', '.join(sorted(named - wanted))} besides;" if named - wanted else ""
        raise DataError(
            f"{key}: the domains differ from those of {where} ({', '.join(sorted(wanted))}):{missing}{unknown} "
            f"both must name the same domains. Correct {key}."
        )
