"""What to prepare, and how: the settings, for which nothing heavy is imported."""

import os
from dataclasses import dataclass, field

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import MOST_CHUNK_SEQUENCES, check_domain_name
from shear_lit.data.preparing.splits import SplitShares, SplitTokens
from shear_lit.ranges import ChunkBytes, CountFrom2, Fraction, UnitBytes, WorkerCount

CHUNK_BYTES = 1 << 26
"""Size in bytes that a file of packed sequences aims at: litdata's own default."""
UNIT_BYTES = 4 << 20
"""Size of a piece of work: a few seconds of one core."""

_MOST_CHUNK_BYTES = 1 << 31  # offsets in a chunk have 32 bits


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What to prepare, and how."""

    domains: dict[str, str | list[str]]
    """Text by domain: a path, a glob, `hf://name[:configuration[:split]]` of a Hugging Face data set, or a list of these. `.jsonl`, `.jsonl.gz`, `.jsonl.zst` and `.parquet` have many documents each; `.txt`, `.md` and source files are one."""  # noqa: E501 (the help has no line breaks)
    tokenizer: str
    """Directory or hub name (or name@revision) of the source model's tokenizer, or a SentencePiece `.model` file."""
    output: str
    """Directory to write. If it holds prepared data, the files that are not in it yet are added."""
    sequence_length: CountFrom2 = 4096
    """Tokens per packed sequence."""
    text_field: str = "text"
    """Field of each JSON object, or column of each table, that holds the document."""
    shares: SplitShares = field(default_factory=SplitShares)
    """Fractions of the documents for stage 1, stage 2 and validation."""
    tokens: SplitTokens = field(default_factory=SplitTokens)
    """Tokens per domain for splits that are not to be sized by their share."""
    append_eos: bool = True
    """Whether each document ends with the tokenizer's EOS token."""
    prepend_bos: bool = False
    """Whether each document begins with the tokenizer's BOS token."""
    max_rejected_fraction: Fraction = 0.01
    """Fraction of a domain's documents that may be unusable (malformed, empty, invalid UTF-8) before it is refused."""
    max_document_bytes: UnitBytes = 16 << 20
    """Larger documents are unusable: a document is tokenised as a whole, in a hundred times its size of memory."""
    chunk_bytes: ChunkBytes = CHUNK_BYTES
    """Size in bytes that each file of packed sequences aims at."""
    unit_bytes: UnitBytes = UNIT_BYTES
    """Bytes of raw text that a process tokenises at once: what it loses at most when it is stopped."""
    workers: WorkerCount = field(default_factory=available_cores)
    """Processes that tokenise, by default one for each core; the output does not depend on it."""

    def __post_init__(self) -> None:
        if not self.domains:
            raise DataError(
                "domains is empty: there is nothing to prepare. Name the text files of each domain."
            )
        for name in self.domains:
            check_domain_name(name)
        if self.sequence_length < 2:
            raise DataError(
                f"{self.sequence_length}: a sequence needs a token to predict from and one to predict. "
                "Use 2 or more.",
                key="sequence_length",
            )
        if not 0 <= self.max_rejected_fraction <= 1:
            raise DataError(
                f"{self.max_rejected_fraction} is no fraction: use a number between 0 and 1.",
                key="max_rejected_fraction",
            )
        if self.chunk_bytes > (most := MOST_CHUNK_SEQUENCES * 2 * self.sequence_length):
            raise DataError(
                f"{self.chunk_bytes}: a chunk of sequence_length={self.sequence_length} would hold more than "
                f"{MOST_CHUNK_SEQUENCES:,} sequences. Use chunk_bytes={most}.",
                key="chunk_bytes",
            )
        for key, most, default in (
            ("chunk_bytes", _MOST_CHUNK_BYTES, CHUNK_BYTES),
            ("unit_bytes", 1 << 30, UNIT_BYTES),
            ("max_document_bytes", 1 << 30, 16 << 20),
            ("workers", 1024, available_cores()),
        ):
            if type(value := getattr(self, key)) is bool or not 1 <= value <= most:
                raise DataError(
                    f"{value} is not in range: use 1 to {most:,}; the default is {default:,}.", key=key
                )
