"""What a prepared data directory holds, and whether it is whole.

``<directory>/manifest.json`` is written last; ``<directory>/<domain>/<split>/`` holds the litdata chunks of packed
sequences and their ``index.json``. While files are added, an index may list chunks that the manifest does not yet have,
after those that it has: what the manifest says is there all the time. ``<directory>/.ledger/`` is for adding files.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.splits import SPLITS as SPLITS
from shear_lit.data.preparing.splits import Bounds
from shear_lit.disk.names import expanded, is_elsewhere, is_plain_name, is_sha256
from shear_lit.disk.reading import read_small
from shear_lit.disk.records import STORED, parse_values, read_values, record_of, shown
from shear_lit.disk.writing import write_file

FORMAT = 2
"""The version of the layout that this package writes; 1, which has fewer facts, can be read as well."""
MANIFEST, INDEX = "manifest.json", "index.json"

TOKEN_TYPES = ("uint16", "uint32")
"""How tokens are stored."""
KEY = "data.directory"
"""The key of the directory of prepared data, as ``fit`` calls it."""
MOST_CHUNK_BYTES = 1 << 32
"""A chunk is smaller: the offsets in it have 32 bits."""
MOST_CHUNK_SEQUENCES = 1 << 24
"""A chunk has at most so many sequences, which are shuffled in memory."""

Error = TypeVar("Error", bound=DataError)

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


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
    place: str = field(default="", compare=False, repr=False, metadata={STORED: False})
    """The directory or address that it was read from."""

    def chunk_sizes(self, split: str) -> dict[str, tuple[int, ...]]:
        """Sequences of each chunk of ``split``, by domain.

        Raises:
            DataError: a domain has no such split.
        """
        for name, domain in self.domains.items():
            if split not in domain.splits:
                raise DataError(
                    f"{split!r}: domain {name!r} was prepared with {', '.join(domain.splits)} only. "
                    f"Choose one of these, or run `shear-lit prepare` again with a share for {split!r}.",
                    key="data.split",
                )
        return {name: tuple(c.sequences for c in d.splits[split].chunks) for name, d in self.domains.items()}


def content_fingerprint(
    tokenizer: TokenizerRecord, sequence_length: int, token_type: str, domains: Mapping[str, DomainRecord]
) -> str:
    """SHA-256 over all that decides what a model is trained on: the tokenizer, the length and the chunks."""
    chunks = {n: {s: [c.sha256 for c in r.chunks] for s, r in d.splits.items()} for n, d in domains.items()}
    content = [tokenizer.fingerprint, sequence_length, token_type, chunks]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_domain_name(name: object) -> bool:
    """Whether ``name`` can be a domain: 1 to 100 letters, digits, ``_``, ``-``, ``.``; the first no ``-`` or ``.``."""
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None


def check_domain_name(name: str) -> None:
    """Refuse a domain name that is no safe folder name.

    Raises:
        DataError: it has characters other than letters, digits, ``_``, ``-`` and ``.``, or begins with ``-`` or ``.``.
    """
    if not is_domain_name(name):
        raise DataError(
            f"{shown(name)} is no safe folder name: use 1 to 100 letters, digits, '_', '-' or '.', "
            "and begin with a letter, digit or '_'. Rename the domain.",
            key="domains",
        )


def listed_names(names: Iterable[object]) -> str:
    """Names of domains in a message; what is no such name is quoted, so that it stays on its line."""
    return ", ".join(str(name) if is_domain_name(name) else shown(name) for name in names)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path``, wholly or not at all."""
    write_file(path, json.dumps(content, indent=1, sort_keys=True))


def write_manifest(directory: str | Path, manifest: Manifest) -> None:
    """Write the manifest of ``directory``, wholly or not at all."""
    content = asdict(manifest)
    del content["place"]
    write_json(Path(directory) / MANIFEST, content)


def read_manifest(directory: str | Path) -> Manifest:
    """Read the manifest of ``directory`` and hold the files against it: presence and sizes, not contents.

    Raises:
        DataError: something is missing, half-written, outside of the directory, or not what the manifest says.
    """
    manifest = manifest_alone(directory)
    root = expanded(directory)
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            if (
                problem := _split_problem(root, f"{name}/{split}", record, manifest.sequence_length)
            ) is not None:
                raise damaged(directory, f"{problem[0]}: {problem[1]}")
    return manifest


def manifest_alone(directory: str | Path) -> Manifest:
    """Read the manifest of a local ``directory``; the files that it lists are not looked at.

    Raises:
        DataError: there is none, or none that can be read.
    """
    path = expanded(directory)
    if not path.is_dir():
        raise DataError(
            f"{str(directory)!r} is no directory: prepared data is expected there. "
            "Correct the path, or make it with `shear-lit prepare`.",
            key=KEY,
        )
    try:
        if (what := _outside(path / MANIFEST, path)) is not None:
            raise _no_manifest(str(directory), str(path / MANIFEST), what)
        content = read_small(path / MANIFEST)
    except FileNotFoundError as error:
        raise DataError(
            f"{str(directory)!r} has no {MANIFEST}: it is half-written or was not prepared. "
            "Run `shear-lit prepare` again.",
            key=KEY,
        ) from error
    except OSError as error:
        raise _no_manifest(str(directory), str(path / MANIFEST), error.strerror or str(error)) from error
    return parsed_manifest(content, str(path / MANIFEST), place=str(directory))


def parsed_manifest(content: bytes, where: str, *, place: str) -> Manifest:
    """The manifest that the file ``where`` of ``place`` holds; the files that it lists are not looked at.

    Raises:
        DataError: it is no manifest of this version, or names what leads out of its directory.
    """
    try:
        parsed = parse_values(content)
        found = parsed.get("format") if isinstance(parsed, dict) else None
        if type(found) is not int or found not in range(1, FORMAT + 1):
            raise DataError(
                f"{place!r}: {where}: format {shown(found)}, this version reads 1 to {FORMAT}. "
                "Run `shear-lit prepare` again with this version.",
                key=KEY,
            )
        manifest = record_of(Manifest, parsed)
        _check_manifest(manifest)
    except DataError:
        raise
    except ValueError as error:
        raise _no_manifest(place, where, str(error)) from error
    return replace(manifest, place=place)


def _no_manifest(place: str, where: str, what: str) -> DataError:
    return DataError(
        f"{place!r}: {where} cannot be read as a manifest ({what}): it was changed or damaged. "
        "Run `shear-lit prepare` again.",
        key=KEY,
    )


def _check_manifest(manifest: Manifest) -> None:
    """Refuse, by a ``ValueError``, what no run of `prepare` writes: above all names that lead out of the directory."""
    tokenizer = manifest.tokenizer
    if manifest.token_type not in TOKEN_TYPES:
        raise ValueError(
            f"token_type is {shown(manifest.token_type)}: {' or '.join(TOKEN_TYPES)} is expected"
        )
    if not 2 <= manifest.sequence_length < MOST_CHUNK_BYTES:
        raise ValueError(f"sequence_length is {manifest.sequence_length}: 2 or more is expected")
    if not 1 <= tokenizer.vocabulary <= 1 << 32:
        raise ValueError(f"tokenizer.vocabulary is {tokenizer.vocabulary}: 1 to 2^32 is expected")
    for name, token in (("bos_id", tokenizer.bos_id), ("eos_id", tokenizer.eos_id)):
        if token is not None and token >= tokenizer.vocabulary:
            raise ValueError(
                f"tokenizer.{name} is {token}, and the vocabulary has {tokenizer.vocabulary} entries"
            )
    for hashed in (tokenizer.fingerprint, *([manifest.fingerprint] if manifest.fingerprint else [])):
        if not is_sha256(hashed):
            raise ValueError(f"the fingerprint {shown(hashed)} is none: 64 hexadecimal digits are expected")
    if not manifest.domains:
        raise ValueError("it has no domain")
    for name, domain in manifest.domains.items():
        if not is_domain_name(name):
            raise ValueError(f"the domain {shown(name)} is no safe folder name")
        for split, record in domain.splits.items():
            if split not in SPLITS:
                raise ValueError(f"{name} has the split {shown(split)}: {', '.join(SPLITS)} are known")
            for chunk in record.chunks:
                _check_chunk(chunk, manifest, f"{name}/{split}")
        if any(not 0 <= low <= high <= 1 for low, high in domain.bounds.values()):
            raise ValueError(f"{name}.bounds are {shown(domain.bounds)}: places from 0 to 1 are expected")


def _check_chunk(chunk: ChunkRecord, manifest: Manifest, where: str) -> None:
    """Refuse what would lead out of the folder, or out of a cache: names become paths, and hashes do."""
    if not _SAFE_NAME.fullmatch(chunk.file) or not is_sha256(chunk.sha256):
        raise ValueError(
            f"{where} lists a chunk with file={shown(chunk.file)} and sha256={shown(chunk.sha256)}: a plain file name "
            "and 64 hexadecimal digits are expected"
        )
    tokens = chunk.sequences * manifest.sequence_length
    if (
        not tokens * int(manifest.token_type.removeprefix("uint")) // 8 <= chunk.bytes <= MOST_CHUNK_BYTES
        or chunk.sequences > MOST_CHUNK_SEQUENCES
    ):
        raise ValueError(
            f"{where} lists {chunk.file} with {chunk.bytes:,} bytes and {chunk.sequences:,} sequences, "
            f"{tokens:,} tokens of {manifest.token_type}: no chunk is like that"
        )


def _split_problem(
    root: Path, folder: str, record: SplitRecord, sequence_length: int
) -> tuple[Path, str] | None:
    if (problem := index_problem(root, folder, record, sequence_length)) is not None:
        return problem
    for chunk in record.chunks:
        path = root / folder / chunk.file
        if (what := size_problem(path, chunk, root)) is not None:
            return path, what
    return None


def index_problem(
    root: Path, folder: str, record: SplitRecord, sequence_length: int
) -> tuple[Path, str] | None:
    """What is wrong with the ``folder`` of a split or with its index, and which of the two; nothing if all is well."""
    path = root / folder
    if not path.is_dir():
        return path, "the folder is missing"
    index = path / INDEX
    for place in (path, index):
        if (what := _outside(place, root, parents=True)) is not None:
            return place, what
    try:
        found = read_values(index)
        indexed = [(c["filename"], c["chunk_bytes"], c["dim"]) for c in found["chunks"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        return index, f"the index cannot be read ({error!r})"
    if not all(is_plain_name(name) for name, _, _ in indexed):
        return index, "the index names a file that is not in its folder"
    expected = [(c.file, c.bytes, c.sequences * sequence_length) for c in record.chunks]
    if indexed[: len(expected)] != expected:  # more are there while files are being added
        return index, f"the index does not list the chunks of {MANIFEST}"
    return None


def size_problem(path: Path, chunk: ChunkRecord, root: Path | None = None) -> str | None:
    """What the presence and the size of a file tell against its being ``chunk``; nothing if nothing.

    With ``root``, the file must lie in that directory.
    """
    if root is not None and (what := _outside(path, root)) is not None:
        return what
    if not path.is_file():
        return "the chunk is missing"
    if (found := path.stat().st_size) != chunk.bytes:
        return f"the chunk has {found:,} bytes instead of {chunk.bytes:,}"
    return None


def _outside(path: Path, root: Path, *, parents: bool = False) -> str | None:
    """What tells against a link: it may not lead out of ``root``, but for the store of a download from the hub."""
    if (parents or path.is_symlink()) and is_elsewhere(path, root):
        return f"it is a link to {str(path.resolve())!r}, outside of the directory"
    return None


def damaged(directory: str | Path, what: str, kind: type[Error] = DataError) -> Error:  # type: ignore[assignment]
    """The error about a damaged file of ``directory``, which ``what`` names."""
    return kind(
        f"{str(directory)!r}: {what}: the prepared data is damaged or half-copied. "
        "Copy the file again, or run `shear-lit prepare` again; `shear-lit prepare --check` names every such file.",
        key=KEY,
    )


def check_same_domains(
    expected: Iterable[str], found: Iterable[str], key: str, where: str, *, value: str = ""
) -> None:
    """Refuse two lists of domains that differ, naming each that is missing or unknown.

    ``value`` is what the user gave for ``key``, where it is not the list itself.

    Raises:
        DataError: ``key``, as ``fit`` calls it, does not name the domains that ``where`` has.
    """
    wanted, named = set(expected), set(found)
    if wanted != named:
        lacks, besides = (listed_names(sorted(some)) for some in (wanted - named, named - wanted))
        missing = f" it lacks {lacks};" if lacks else ""
        unknown = f" it has {besides} besides;" if besides else ""
        raise DataError(
            f"{value or f'{{{listed_names(sorted(named))}}}'}: the domains differ from those of {where} "
            f"({listed_names(sorted(wanted))}):{missing}{unknown} both must name the same domains. Correct it.",
            key=key,
        )
