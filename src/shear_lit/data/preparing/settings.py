"""What to prepare, and how: the settings, for which nothing heavy is imported."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import MOST_CHUNK_SEQUENCES, SPLITS, check_domain_name
from shear_lit.data.preparing.decontamination_settings import DecontaminationSettings
from shear_lit.disk.names import expanded
from shear_lit.ranges import (
    ChunkBytes,
    CountFrom0,
    CountFrom2,
    Fraction,
    UnitBytes,
    WorkerCount,
    as_plain_numbers,
)

CHUNK_BYTES = 1 << 26
"""Size in bytes that a file of packed sequences aims at: litdata's own default."""
UNIT_BYTES = 2 << 20
"""Size of a piece of work: a second of one core."""

Stage = Literal["all", "tokenise", "select", "pack", "commit"]
"""What ``prepare`` does one after the other, or all of it."""

_DEFAULTS = {"chunk_bytes": CHUNK_BYTES, "unit_bytes": UNIT_BYTES, "max_document_bytes": 16 << 20}
_MOST = {"chunk_bytes": 1 << 31, "unit_bytes": 1 << 30, "max_document_bytes": 1 << 30, "workers": 1024}


_PUBLISHED = {
    "prune": ("for_prune",),
    "pretrain": ("for_ft",),
    "validation": ("eval/eval_merge", "eval_merge", "eval"),
}
"""Where LLM-Shearing's scripts put each split."""


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """The fraction of the documents that each split gets; they sum to 1.

    A document's split follows from a hash of its text, however that is written, so that the fractions are met on
    average. Splits that are sized in tokens come first: what they leave is shared by the others in proportion to these
    fractions.
    """

    prune: Fraction = 0.2
    """Fraction for stage 1, learning what to keep."""
    pretrain: Fraction = 0.75
    """Fraction for stage 2, continued pre-training."""
    validation: Fraction = 0.05
    """Fraction held out for the losses that move the mixture."""

    def __post_init__(self) -> None:
        shares = asdict(self)
        if not all(0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
            raise DataError(
                f"{shares} sum to {sum(shares.values()):g}: each must be 0 to 1 and the sum must be 1. "
                "Correct one of them; 0 leaves a split out.",
                key="shares",
            )
        as_plain_numbers(self)


@dataclass(frozen=True, kw_only=True)
class SplitTokens:
    """Tokens of each domain that a split gets, at least, instead of a share; 0: its share decides.

    With all splits sized in tokens, what is left of the text is not used; the manifest counts it.
    """

    prune: CountFrom0 = 0
    """Tokens per domain for stage 1."""
    pretrain: CountFrom0 = 0
    """Tokens per domain for stage 2."""
    validation: CountFrom0 = 0
    """Tokens per domain held out; the paper's is 2 million."""

    def __post_init__(self) -> None:
        for name, tokens in asdict(self).items():
            if tokens < 0:
                raise DataError(
                    f"{tokens}: a split has 0 or more tokens. Correct it; 0 sizes it by its share.",
                    key=f"tokens.{name}",
                )
        as_plain_numbers(self)


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """What to prepare, and how, whatever a document is; what has no key here, ``PrepareSettings`` has."""

    domains: dict[str, str | list[str]]
    """Text by domain: a path, a glob, one in S3 (`s3://bucket/wiki/*.jsonl.gz`), `hf://name[:configuration[:split]]` of a Hugging Face data set, or a list of these. `.jsonl`, `.csv`, `.parquet` and `.arrow` have many documents each; `.txt`, `.md` and source files are one; all may be compressed. Already tokenised: Megatron `.bin` with `.idx`, litdata directories, `uint16:PATH`, `uint32:PATH`, `.npy`. `datatrove://`: what a pipeline of datatrove hands over."""  # noqa: E501 (the help has no line breaks)
    tokenizer: str
    """Directory or hub name (or name@revision) of the source model's tokenizer, or a SentencePiece `.model` file."""
    output: str
    """Directory to write, or `s3://bucket/prefix`. If it holds prepared data, the files that are not in it yet are added."""  # noqa: E501
    work: str = ""
    """Directory to work in, where the output is in S3; machines that do parts of the run share it."""
    sequence_length: CountFrom2 = 4096
    """Tokens per packed sequence."""
    packing: str = field(default="best_fit", init=False)
    text_field: str = field(default="", init=False)
    split_special_tokens: bool = field(default=True, init=False)
    shares: SplitShares = field(default_factory=SplitShares)
    """Fractions of the documents for stage 1, stage 2 and validation."""
    tokens: SplitTokens = field(default_factory=SplitTokens)
    """Tokens per domain for splits that are not to be sized by their share."""
    append_eos: bool = field(default=False, init=False)
    prepend_bos: bool = field(default=False, init=False)
    end_of_text: CountFrom0 | None = field(default=None, init=False)
    decontaminate: DecontaminationSettings = field(default_factory=DecontaminationSettings, init=False)
    max_rejected_fraction: Fraction = 0.01
    """Fraction of a domain's documents that may be unusable (malformed, empty, invalid UTF-8) before it is refused."""
    max_document_bytes: UnitBytes = _DEFAULTS["max_document_bytes"]
    """Larger documents are unusable."""
    chunk_bytes: ChunkBytes = CHUNK_BYTES
    """Size in bytes that each file of packed sequences aims at."""
    unit_bytes: UnitBytes = UNIT_BYTES
    """Bytes of raw text that a process tokenises at once: what it loses at most when it is stopped."""
    workers: WorkerCount = field(default_factory=available_cores)
    """Processes that tokenise and pack, by default one for each core; the output does not depend on it."""
    executor: Literal["processes", "ray"] = "processes"
    """Who tokenises and packs: `processes` of this machine, or a cluster of `ray`, the one of RAY_ADDRESS or else one of `workers` processes that is begun here."""  # noqa: E501

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
        _check_sizes(self)
        as_plain_numbers(self)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(CommonSettings):
    """What to prepare, and how."""

    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """`concatenate`: documents follow one another and are cut where a sequence ends, as in the paper; `best_fit`: no document is cut that fits into a sequence, and what stays empty is padding."""  # noqa: E501
    text_field: str = "text"
    """Field of each JSON object, or column of each table, that holds the document."""
    split_special_tokens: bool = True
    """Whether text that looks like a special token (`</s>`) is text; false: it becomes that token, as transformers does by default."""  # noqa: E501
    append_eos: bool = True
    """Whether each document ends with the tokenizer's EOS token."""
    prepend_bos: bool = False
    """Whether each document begins with the tokenizer's BOS token."""
    end_of_text: CountFrom0 | None = None
    """Token that ends each document of already tokenised inputs; by default the tokenizer's EOS token."""
    decontaminate: DecontaminationSettings = field(default_factory=DecontaminationSettings)
    """Evaluation tasks whose text is cut out of documents."""


def _check_sizes(settings: CommonSettings) -> None:
    # Sequences with the most padding take twice what their text does.
    times = 2 if settings.packing == "best_fit" else 1
    if settings.chunk_bytes > (most := MOST_CHUNK_SEQUENCES * 2 * settings.sequence_length // times):
        raise DataError(
            f"{settings.chunk_bytes}: a chunk of sequence_length={settings.sequence_length} would hold more than "
            f"{MOST_CHUNK_SEQUENCES:,} sequences. Use chunk_bytes={most}.",
            key="chunk_bytes",
        )
    for key, most in (_MOST | {"chunk_bytes": _MOST["chunk_bytes"] // times}).items():
        if type(value := getattr(settings, key)) is bool or not 1 <= value <= most:
            default = _DEFAULTS.get(key, available_cores())
            raise DataError(
                f"{value} is not in range: use 1 to {most:,}; the default is {default:,}.", key=key
            )


@dataclass(frozen=True, kw_only=True)
class MdsImport:
    """Which MDS folders to import, and as what."""

    from_mds: str | dict[str, str | list[str]]
    """MDS folders by split (`--from_mds.prune=DIR`), or the directory that holds `for_prune`, `for_ft` and `eval`."""
    tokenizer: str
    """Hugging Face directory or name of the tokenizer that made the tokens; for the published data that of Llama 2."""
    output: str
    """Directory to write; must be empty or absent."""
    append_eos: bool = True
    """Whether each document ends with EOS, which LLM-Shearing's scripts add; only written into the manifest."""
    prepend_bos: bool = True
    """Whether each document begins with BOS, which LLM-Shearing's scripts add; only written into the manifest."""
    chunk_bytes: ChunkBytes = CHUNK_BYTES
    """Size in bytes that each file of packed sequences aims at."""
    workers: WorkerCount = field(default_factory=available_cores)
    """Processes that read and write, by default one for each core; the output does not depend on it."""

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1:
            raise DataError(
                f"{self.chunk_bytes} is no size: use 1 or more, for example {CHUNK_BYTES}.", key="chunk_bytes"
            )
        as_plain_numbers(self)

    def folders(self) -> dict[str, list[str]]:
        """The MDS folders of each split.

        Raises:
            DataError: a split has another name than ours, or a directory holds none of LLM-Shearing's folders.
        """
        if isinstance(self.from_mds, str):
            return _published(expanded(self.from_mds))
        if not self.from_mds or not set(self.from_mds) <= set(SPLITS):
            raise DataError(
                f"from_mds names the splits {sorted(self.from_mds)}: there must be one, and they are "
                f"{', '.join(SPLITS)}. Write for example --from_mds.prune=DIR --from_mds.validation=DIR."
            )
        return {split: [f] if isinstance(f, str) else list(f) for split, f in self.from_mds.items()}


def _published(root: Path) -> dict[str, list[str]]:
    found = {
        split: [str(next(root / place for place in places if (root / place).is_dir()))]
        for split, places in _PUBLISHED.items()
        if any((root / place).is_dir() for place in places)
    }
    if not found:
        names = ", ".join(place for places in _PUBLISHED.values() for place in places)
        raise DataError(
            f"{str(root)!r} holds none of {names}: which split it is cannot be told. "
            "Name the split: --from_mds.prune=DIR, --from_mds.pretrain=DIR, --from_mds.validation=DIR.",
            key="from_mds",
        )
    return found
