"""The inputs of each domain: files by path or glob, or data sets of the Hugging Face hub, and of which kind each is."""

import glob
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.disk.names import expanded
from shear_lit.disk.records import one_line

HUB = "hf://"
"""What the name of a data set of the Hugging Face hub begins with: ``hf://name[:configuration[:split]]``."""

_TEXT = (
    ".txt .text .md .markdown .rst .tex .org .adoc .html .htm .xml .css .sql .sh .bash .ps1 .py .pyi .ipynb .r .jl .m "
    ".c .h .cc .cpp .cxx .hh .hpp .cu .cs .java .kt .kts .scala .clj .groovy .go .rs .swift .js .jsx .mjs .ts .tsx "
    ".vue .php .rb .pl .pm .lua .hs .ml .mli .fs .ex .exs .erl .lisp .scm .el .f .f90 .f95 .pas .ada .asm .s .v .sv "
    ".vhdl .zig .nim .d .dart .proto .cmake .toml .yaml .yml .ini .cfg"
)
TEXT_SUFFIXES = frozenset(_TEXT.split())
"""Names of files that are one document each end with one of these."""

_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


class Kind(Enum):
    """How the documents lie in an input."""

    LINES = "one JSON object per line"
    GZIP = "one JSON object per line, compressed by gzip"
    ZSTANDARD = "one JSON object per line, compressed by Zstandard"
    TABLE = "Parquet"
    TEXT = "one document"
    HUB = "a data set of the Hugging Face hub"


_KINDS = {
    **{f".{name}": Kind.LINES for name in ("jsonl", "ndjson", "json")},
    **{f".{name}.gz": Kind.GZIP for name in ("jsonl", "ndjson", "json")},
    **{f".{name}.{end}": Kind.ZSTANDARD for name in ("jsonl", "ndjson", "json") for end in ("zst", "zstd")},
    ".parquet": Kind.TABLE,
    **dict.fromkeys(TEXT_SUFFIXES, Kind.TEXT),
}
_NEEDS = {Kind.ZSTANDARD: "zstandard", Kind.TABLE: "pyarrow", Kind.HUB: "datasets"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input: a file or a data set."""

    domain: str
    """The domain it belongs to."""
    name: str
    """Its path, or the name of the data set."""
    kind: Kind
    """How the documents lie in it."""
    bytes: int
    """Its size on disk."""
    modified: int = 0
    """When it was last changed, in nanoseconds."""
    fingerprint: str = ""
    """Hash of its size and of samples of its content: the same wherever it lies."""


def find_sources(domains: Mapping[str, str | Sequence[str]]) -> list[Source]:
    """The inputs of all domains, in the order in which they are read: by domain, as given, globs sorted.

    Raises:
        DataError: there is no such file, it is of no kind that is read, or a package for its kind is missing.
    """
    sources: list[Source] = []
    for domain in sorted(domains):
        patterns = domains[domain]
        found = _sources_of(domain, [patterns] if isinstance(patterns, str) else patterns)
        for kind, name in {source.kind: source.name for source in found}.items():
            _check_package(domain, kind, name)
        sources += found
    return sources


def open_hub(source: Source) -> Any:
    """The data set that ``source`` names, downloaded and mapped into memory.

    Raises:
        DataError: there is none.
    """
    import datasets  # a large package that is wanted for this kind of input alone

    name, configuration, split = (*source.name.removeprefix(HUB).split(":"), "", "")[:3]
    try:
        return datasets.load_dataset(name, configuration or None, split=split or "train")
    except Exception as error:  # each of its builders has exceptions of its own
        raise DataError(
            f"{source.name!r} cannot be loaded ({one_line(error)}): "
            f"{HUB}name[:configuration[:split]] of a Hugging Face data set is expected. Correct it.",
            key=f"domains.{source.domain}",
        ) from error


def _sources_of(domain: str, patterns: Sequence[str]) -> list[Source]:
    found: dict[str, Source] = {}
    for pattern in patterns:
        if pattern.startswith(HUB):
            found[pattern] = _hub_source(domain, pattern)
        else:
            found |= {str(p): found.get(str(p)) or _file_source(domain, p) for p in _files(domain, pattern)}
    if not found:
        raise DataError(
            "[] is an empty list: each domain needs text. Name a file, or leave it out.",
            key=f"domains.{domain}",
        )
    return list(found.values())


def _files(domain: str, pattern: str) -> Iterator[Path]:
    path = expanded(pattern)
    try:
        matching = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (absolute patterns)
        files = [path] if path.is_file() else [p for p in matching if p.is_file()]
    except (
        OSError,
        ValueError,
    ) as error:  # the second: a zero byte, or a pattern that no expression can be made of
        raise DataError(
            f"{pattern!r} cannot be looked for ({one_line(error)}). Correct it.", key=f"domains.{domain}"
        ) from error
    waiting = [p for p in matching if p.exists() and not p.is_file() and not p.is_dir()]
    if waiting:
        raise DataError(
            f"{str(waiting[0])!r} is a pipe or a device, which may never end. Write what comes from it into a file.",
            key=f"domains.{domain}",
        )
    if not files:
        raise DataError(
            f"{pattern!r}: no file matches it: a path, a glob, or {HUB}name is expected. "
            "Correct it; a directory is written as 'directory/*.jsonl'.",
            key=f"domains.{domain}",
        )
    yield from files


def _file_source(domain: str, path: Path) -> Source:
    status = path.stat()
    kind = _kind_of(domain, path)
    return Source(
        domain=domain,
        name=str(path),
        kind=kind,
        bytes=status.st_size,
        modified=status.st_mtime_ns,
        fingerprint=_sampled(domain, path, status.st_size),
    )


def _hub_source(domain: str, name: str) -> Source:
    _check_package(domain, Kind.HUB, name)
    source = Source(domain=domain, name=name, kind=Kind.HUB, bytes=0)
    loaded = open_hub(source)
    fingerprint = hashlib.sha256(loaded._fingerprint.encode()).hexdigest()
    return Source(domain=domain, name=name, kind=Kind.HUB, bytes=loaded.data.nbytes, fingerprint=fingerprint)


def _kind_of(domain: str, path: Path) -> Kind:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    for end in ("".join(suffixes[-2:]), "".join(suffixes[-1:])):
        if kind := _KINDS.get(end):
            return kind
    raise DataError(
        f"{str(path)!r} is of no kind that is read: .jsonl, .jsonl.gz, .jsonl.zst and .parquet have "
        "many documents each; .txt, .md and source files are one document. Convert it, or narrow the glob.",
        key=f"domains.{domain}",
    )


def _check_package(domain: str, kind: Kind, name: str) -> None:
    package = _NEEDS.get(kind)
    if package and importlib.util.find_spec(package) is None:
        raise DataError(
            f"{name!r}: {kind.value} is read with the package {package!r}, which is not installed. "
            "Install it with `pip install 'shear-lit[corpus]'`.",
            key=f"domains.{domain}",
        )


def _sampled(domain: str, path: Path, size: int) -> str:
    """Hash of a file's size and of blocks spread over it: of all of it, if it is small."""
    digest = hashlib.sha256(str(size).encode())
    last = max(0, size - _SAMPLE_BYTES)
    try:
        with path.open("rb") as file:
            for start in sorted({last * index // (_SAMPLES - 1) for index in range(_SAMPLES)}):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read ({error.strerror}). Correct its permissions, or the list.",
            key=f"domains.{domain}",
        ) from error
    return digest.hexdigest()
