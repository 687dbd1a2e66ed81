"""The record of a teacher's cache: of which model and data it is, and what was kept of each distribution.

``<directory>/cache.json`` is written first and never changed; ``<directory>/<domain>/`` holds the files (``files.py``).
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.disk.names import expanded, is_sha256
from shear_lit.disk.records import STORED, read_values, record_of, shown

RECORD, FORMAT = "cache.json", 1
KEY = "model.distillation.cache"
"""The key of its directory, as ``fit`` calls it."""
METHODS = ("top_k", "sampled")
"""What may be kept of a distribution: its most probable tokens and the mass outside, or tokens drawn from it."""
MOST_ANSWERS = 1 << 27
"""Tokens that are kept of all distributions of one sequence together."""

_FILE_BYTES, _MOST_SEQUENCES = 1 << 25, 256
"""What one file may have, unless a single sequence has more: so much work is lost where a process is killed."""


@dataclass(frozen=True, kw_only=True)
class CacheRecord:
    """What a cache holds, and of what."""

    teacher: str
    """Directory of the model, or ``organisation/model@commit``."""
    teacher_fingerprint: str
    """``source_fingerprint`` of it."""
    tokenizer: str
    """Fingerprint of the tokenizer that made the data's tokens."""
    data_fingerprint: str
    """That of the prepared data's manifest."""
    split: str
    """The split whose sequences it is of."""
    cross_document_attention: bool
    """Whether tokens attended to earlier documents of their sequence."""
    sequence_length: int
    """Tokens of a sequence."""
    vocabulary: int
    """Entries of the teacher's head."""
    method: str
    """What is kept of each distribution: one of ``METHODS``."""
    kept: int
    """Tokens that are kept, or draws."""
    temperature: float
    """What logits were divided by."""
    seed: int
    """What the draws depend on, and which sequences come first."""
    format: int = field(default=FORMAT)
    """The version of the layout."""
    place: str = field(default="", compare=False, repr=False, metadata={STORED: False})
    """The directory that it was read from."""

    @property
    def sequence_type(self) -> np.dtype[np.void]:
        """How what is said of one sequence is stored."""
        length, narrow = self.sequence_length, "<u2" if self.vocabulary <= 1 << 16 else "<u4"
        tokens = ("tokens", narrow, (length, self.kept))
        if self.method == "sampled":
            return np.dtype([tokens, ("negative_entropy", "<f4", (length,))])
        return np.dtype([tokens, ("shares", "<f4", (length, self.kept)), ("outside", "<f4", (length,))])

    @property
    def sequences_per_file(self) -> int:
        """How many sequences go into one file."""
        return max(1, min(_MOST_SEQUENCES, _FILE_BYTES // self.sequence_type.itemsize))

    def check_data(self, manifest: Manifest, *, split: str, cross_document_attention: bool) -> None:
        """Refuse to serve other sequences than those that the teacher has read.

        Raises:
            DataError: the data, the split or its documents are others.
        """
        if self.tokenizer != manifest.tokenizer.fingerprint:
            raise self.refused(
                f"it is of text that another tokenizer made ({self.tokenizer[:12]}; that of the data is "
                f"{manifest.tokenizer.fingerprint[:12]}), and by the same token ids it means other things"
            )
        if self.data_fingerprint != manifest.fingerprint:
            raise self.refused(
                f"it is of the data with fingerprint {self.data_fingerprint[:12]}, and that in {manifest.place} has "
                f"{manifest.fingerprint[:12]}: its sequences are others"
            )
        if self.split != split:
            raise self.refused(f"it is of the split {self.split}, and the run has data.split={split}")
        if self.cross_document_attention != cross_document_attention:
            ours, theirs = (
                str(value).lower() for value in (cross_document_attention, self.cross_document_attention)
            )
            raise self.refused(
                f"its teacher read with cross_document_attention={theirs}, and the run has "
                f"data.cross_document_attention={ours}"
            )

    def refused(self, why: str) -> DataError:
        """The error that says why it cannot serve."""
        return DataError(
            f"{self.place!r}: {why}. Name another cache, or make one with `shear-lit teach`.", key=KEY
        )


def write_record(directory: Path, record: CacheRecord) -> CacheRecord:
    """Begin a cache in a new or empty directory, or go on in one of the same record, which comes back with its place.

    Raises:
        DataError: the directory holds something else, or the cache of another record.
    """
    path = directory / RECORD
    if not path.exists():
        if directory.is_dir() and any(not item.name.endswith(".part") for item in directory.iterdir()):
            raise DataError(
                f"{str(directory)!r} is not empty and has no {RECORD}: a cache has a directory of its own. "
                "Name a new directory.",
                key="output",
            )
        directory.mkdir(parents=True, exist_ok=True)
        content = {name: value for name, value in asdict(record).items() if name != "place"}
        write_part(path, [json.dumps(content, indent=1, sort_keys=True).encode()])
    found = read_record(directory, key="output")
    for each in fields(CacheRecord):
        there, asked = getattr(found, each.name), getattr(record, each.name)
        # Where the teacher lies does not matter: its fingerprint does.
        if each.name not in ("place", "teacher") and there != asked:
            raise DataError(
                f"{str(directory)!r} is a cache with {each.name} {shown(there)}, and {shown(asked)} is asked for: one "
                "cache holds one kind of answer. Name a new directory, or go on with the same settings.",
                key="output",
            )
    return found


def read_record(directory: str | Path, *, key: str = KEY) -> CacheRecord:
    """The record of a cache.

    Raises:
        DataError: there is none, or none of this version; it names ``key``.
    """
    path = expanded(directory) / RECORD
    try:
        record = record_of(CacheRecord, read_values(path))
        _check(record)
    except FileNotFoundError as error:
        raise DataError(
            f"{str(directory)!r} has no {RECORD}: a directory that `shear-lit teach` wrote is expected. "
            "Correct the path.",
            key=key,
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{str(directory)!r}: its {RECORD} cannot be used ({error}): it was changed, or is of another version. "
            "Make the cache again with `shear-lit teach`.",
            key=key,
        ) from error
    return replace(record, place=str(directory))


def _check(record: CacheRecord) -> None:
    """Refuse, by a ``ValueError``, what no run of `teach` writes."""
    if record.format != FORMAT:
        raise ValueError(f"format {record.format}, this version reads {FORMAT}")
    if record.method not in METHODS:
        raise ValueError(f"method is {shown(record.method)}: {' or '.join(METHODS)} is expected")
    if not all(map(is_sha256, (record.teacher_fingerprint, record.tokenizer, record.data_fingerprint))):
        raise ValueError("a fingerprint in it is none: 64 hexadecimal digits are expected")
    if not (record.kept >= 1 and 2 <= record.sequence_length <= MOST_ANSWERS // record.kept):
        raise ValueError(f"kept is {record.kept} and sequence_length {record.sequence_length}")
    if not (1 <= record.vocabulary <= 1 << 32 and record.temperature > 0):
        raise ValueError(f"vocabulary is {record.vocabulary} and temperature {record.temperature}")
    if record.method == "top_k" and record.kept > record.vocabulary:
        raise ValueError(f"kept is {record.kept}, of {record.vocabulary} entries")
