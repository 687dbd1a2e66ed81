"""What a prepared data directory holds.

``<directory>/manifest.json`` is written last; ``<directory>/<domain>/<split>/`` holds the litdata chunks of packed
sequences, beside each the bounds of the documents in it, and their ``index.json``. While files are added, an index may
list chunks that the manifest does not yet have, after those that it has: what the manifest says is there all the time.
``<directory>/.ledger/`` is for adding files.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.contamination import DecontaminationRecord
from shear_lit.data.prepared.conversations import ChatRecord
from shear_lit.disk.records import STORED, shown
from shear_lit.disk.writing import write_file

FORMAT = 3
"""The version of the layout that this package writes; 1 and 2, which do not know where documents begin, can be read."""
MANIFEST, INDEX, LEDGER, PAGE = "manifest.json", "index.json", ".ledger", "README.md"
"""Names of files and folders of prepared data; where it is shared, the page is what people see first."""

SPLITS = ("prune", "pretrain", "validation")
"""The splits of a prepared data set; no document is in two of them."""
PACKINGS = ("concatenate", "best_fit")
"""How documents become sequences: one after the other, or each that fits into a sequence as a whole."""
TOKEN_TYPES = ("uint16", "uint32")
"""How tokens are stored."""
KEY = "data.directory"
"""The key of the directory of prepared data, as ``fit`` calls it."""
MOST_CHUNK_SEQUENCES = 1 << 24
"""A chunk has at most so many sequences, which are shuffled in memory."""

Bounds = dict[str, tuple[float, float]]
"""The places of each split, in [0, 1]: from the first number on, below the second."""
Error = TypeVar("Error", bound=DataError)

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer that made the tokens."""

    name: str
    """The name or directory it was loaded from."""
    fingerprint: str
    """SHA-256 of what it does: the same for the same tokenizer wherever it lies."""
    vocabulary: int
    """Entries of the vocabulary: the largest token id plus one."""
    bos_id: int | None
    """The token that begins a text, if it has one."""
    eos_id: int | None
    """The token that ends a text, if it has one."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file of prepared data."""

    file: str
    """Name inside its folder."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Hash of the file."""


@dataclass(frozen=True, kw_only=True)
class ChunkRecord(FileRecord):
    """One file of packed sequences."""

    sequences: int
    """Sequences in it."""
    documents: FileRecord | None = None
    """Where documents begin in them, and where text ends; none in data of an earlier version."""
    loss_mask: FileRecord | None = None
    """Which of their tokens are to be predicted, one bit each; none: all are."""

    def files(self) -> tuple[FileRecord, ...]:
        """All that belong to it."""
        return tuple(one for one in (self, self.documents, self.loss_mask) if one is not None)


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
    padding: int = 0
    """Tokens that only fill sequences up, where no document is cut that fits into one."""
    turns: int = 0
    """Answers of the assistant in it, where documents are conversations."""
    cuts: int = 0
    """Places at which conversations are cut, as they are longer than a sequence."""
    learned: int = 0
    """Tokens of the assistant, which are to be predicted, where documents are conversations."""

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
    """Documents that were dropped because their text, but for its writing, came before in any domain."""
    unused: int = 0
    """Documents that no split wanted, where all are sized in tokens."""
    bounds: Bounds = field(default_factory=dict)
    """The places, in [0, 1], of the documents of each split; they stay as they are when files are added."""
    inputs: int = 0
    """Files and data sets that were read."""
    bytes: int = 0
    """Their size."""
    inputs_fingerprint: str = ""
    """SHA-256 over the hashes of their contents."""


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
    packing: str = PACKINGS[0]
    """How documents became sequences."""
    split_special_tokens: bool | None = None
    """Whether text that looks like a special token was taken as text; none if it is not known."""
    ledger: tuple[FileRecord, ...] = ()
    """What is kept for adding files, in the folder of the last run."""
    runs: int = 0
    """How often `shear-lit prepare` has written to it; 0: files cannot be added, for there is no ledger."""
    fingerprint: str = ""
    """SHA-256 over all that decides what a model is trained on: the tokenizer, the length and the chunks."""
    format: int = field(default=FORMAT)
    """The version of the layout."""
    chat: ChatRecord | None = None
    """What made tokens of conversations, if documents are such; otherwise none."""
    decontamination: DecontaminationRecord | None = None
    """The evaluation tasks whose text was cut out, and what was found; none if none were given."""
    place: str = field(default="", compare=False, repr=False, metadata={STORED: False})
    """The directory or address that it was read from; of several, all of them."""
    places: dict[str, str] = field(default_factory=dict, compare=False, repr=False, metadata={STORED: False})
    """That of each domain, where several directories were read as one."""

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
    chunks = {
        name: {s: [f.sha256 for c in r.chunks for f in c.files()] for s, r in domain.splits.items()}
        for name, domain in domains.items()
    }
    content = [tokenizer.fingerprint, sequence_length, token_type, chunks]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_domain_name(name: object) -> bool:
    """Whether ``name`` can be a domain: 1 to 100 letters, digits, ``_``, ``-``, ``.``; the first no ``-`` or ``.``."""
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None


def is_file_name(name: str) -> bool:
    """Whether ``name`` can be that of a chunk or of what belongs to it."""
    return _SAFE_NAME.fullmatch(name) is not None


def check_domain_name(name: str) -> None:
    """Refuse a domain name that is no safe folder name, or that of a file of ours.

    Raises:
        DataError: it has characters other than letters, digits, ``_``, ``-`` and ``.``, or begins with ``-`` or ``.``.
    """
    if name.lower() in (MANIFEST, PAGE.lower()):
        raise DataError(
            f"{name!r} is the name of a file of prepared data, beside which the folder of the domain would be. "
            "Rename the domain.",
            key="domains",
        )
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
    del content["place"], content["places"]
    write_json(Path(directory) / MANIFEST, content)


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
