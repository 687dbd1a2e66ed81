"""Holding every file and every index of a prepared data set against its manifest; nothing is written."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.prepared.manifest import KEY, LEDGER, MANIFEST, FileRecord, Manifest
from shear_lit.data.prepared.reading import index_problem, manifest_alone
from shear_lit.data.serving.remote import REMOTE, RemoteSettings, is_remote, open_chunks, read_prepared
from shear_lit.disk.names import expanded
from shear_lit.progress import watched


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A prepared data set that is what its manifest says."""

    directory: str
    """Where it lies."""
    files: int
    """Files that were read: chunks, and what belongs to them."""
    bytes: int
    """Their bytes."""

    def __str__(self) -> str:
        return (
            f"{self.directory}: whole; {self.files:,} files of {self.bytes:,} bytes are those of {MANIFEST}"
        )


def verify(directory: str, *, workers: int = 4, remote: RemoteSettings = REMOTE) -> Verified:
    """Read every file of a prepared data set; ``workers`` at a time.

    Raises:
        DamagedData: with a line for each file and each index that is missing or not what the manifest says.
        DataError: there is no manifest that can be read.
    """
    if workers < 1:
        raise DataError(f"{workers}: at least 1 is needed. Correct it.", key="workers")
    manifest = _manifest(directory, remote)
    problems = [] if is_remote(directory) else list(_index_problems(expanded(directory), manifest))
    chunks, everything = open_chunks(directory, remote), list(_every_file(manifest))
    if not is_remote(directory) and (expanded(directory) / LEDGER).exists():  # copies may leave it out
        everything += [(f"{LEDGER}/{manifest.runs}", file) for file in manifest.ledger]

    with ThreadPoolExecutor(workers) as pool:
        answers = pool.map(lambda place: chunks.problem(*place), everything)
        found = watched(answers, "Checking", "file", len(everything))
        problems += [what for what in found if what is not None]
    if problems:
        raise DamagedData(_report(directory, problems), key=KEY)
    return Verified(directory=directory, files=len(everything), bytes=sum(c.bytes for _, c in everything))


def _manifest(directory: str, remote: RemoteSettings) -> Manifest:
    """The manifest alone: what it says of the files is looked at later, all of it."""
    return read_prepared(directory, remote) if is_remote(directory) else manifest_alone(directory)


def _index_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            problem = index_problem(directory, f"{name}/{split}", record, manifest.sequence_length)
            if problem is not None:
                yield f"{problem[0]}: {problem[1]}"


def _every_file(manifest: Manifest) -> Iterator[tuple[str, FileRecord]]:
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            for chunk in record.chunks:
                yield from ((f"{name}/{split}", file) for file in chunk.files())


def _report(directory: str, problems: list[str]) -> str:
    lines = "\n".join(f"  {what}" for what in problems)
    return (
        f"{directory!r}: {len(problems)} of its files are not what {MANIFEST} says:\n{lines}\n"
        "Copy these again from where they are whole, or run `shear-lit prepare` again."
    )
