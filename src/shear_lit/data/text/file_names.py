"""Which kind of input a file is, by its name."""

from pathlib import Path, PurePath

from shear_lit.data.text.compression import COMPRESSIONS, PACKAGES
from shear_lit.data.text.kinds.megatron import index_of

_TEXT = (
    ".txt .text .md .markdown .rst .tex .org .adoc .html .htm .xml .css .sql .sh .bash .ps1 .py .pyi .ipynb .r .jl .m "
    ".c .h .cc .cpp .cxx .hh .hpp .cu .cs .java .kt .kts .scala .clj .groovy .go .rs .swift .js .jsx .mjs .ts .tsx "
    ".vue .php .rb .pl .pm .lua .hs .ml .mli .fs .ex .exs .erl .lisp .scm .el .f .f90 .f95 .pas .ada .asm .s .v .sv "
    ".vhdl .zig .nim .d .dart .proto .cmake .toml .yaml .yml .ini .cfg"
)
TEXT_SUFFIXES = frozenset(_TEXT.split())
"""Names of files that are one document each end with one of these."""
_NAMES = (
    "readme license licence copying notice authors contributors contributing changelog changes history news todo "
    "install makefile gnumakefile dockerfile containerfile vagrantfile jenkinsfile rakefile gemfile procfile"
)
TEXT_NAMES = frozenset(_NAMES.split())
"""Names without an ending of files that are one document each, in lower case."""

_LINES = (".jsonl", ".ndjson", ".json")
_KINDS = {
    **dict.fromkeys(_LINES, "lines"),
    **dict.fromkeys(TEXT_SUFFIXES, "text"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".npy": "npy",
}
_NEEDS = {"parquet": "pyarrow", "arrow": "pyarrow", "hub": "datasets"}

READ = (
    ".jsonl, .ndjson, .json, .csv and .tsv (each also .gz, .bz2, .xz or .zst), .parquet and .arrow have many documents "
    "each; .txt, .md and source files, also compressed, and files named README, LICENSE or Makefile are one document; "
    "tokens are .npy, .bin with .idx beside it, or named uint16:FILE or uint32:FILE"
)
"""What is read, for a message."""


def kind_of_file(path: PurePath) -> str | None:
    """The kind of a file, a key of ``pieces.KINDS``; None if files of such names are not read."""
    *_, before, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    if not last:
        return "text" if path.name.lower() in TEXT_NAMES else None
    if last == ".bin":
        return "megatron" if index_of(str(path)).is_file() else None
    if last not in COMPRESSIONS:
        return _KINDS.get(last)
    kind = _KINDS.get(before)
    if kind == "lines":
        return "lines" + {".zstd": ".zst"}.get(last, last)
    return kind if kind in ("text", "csv", "tsv") else None


def package_for(name: str, kind: str) -> str | None:
    """The optional package that reading this takes, if any."""
    return _NEEDS.get(kind) or PACKAGES.get(Path(name).suffix.lower())
