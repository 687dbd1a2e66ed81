"""The toy's data with tokens that are not to be predicted, as conversations have them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import write_manifest
from shear_lit.data.prepared.reading import read_manifest


def write_masked(data: Path, directory: Path, *, seed: int = 3, domains: tuple[str, ...] = ()) -> Path:
    """Copy prepared ``data``, and have runs of tokens of random lengths masked by turns, all of some sequences.

    ``domains``: those that are kept; all of them by default.
    """
    shutil.copytree(data, directory)
    manifest, chance = read_manifest(directory), np.random.default_rng(seed)
    kept = {name: record for name, record in manifest.domains.items() if not domains or name in domains}
    manifest = replace(manifest, domains=kept)
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            chunks = []
            for chunk in record.chunks:
                rows = [turns(manifest.sequence_length, chance) for _ in range(chunk.sequences)]
                bits = np.packbits(np.stack(rows), axis=1, bitorder="little")
                file = directory / name / split / f"{Path(chunk.file).stem}.mask"
                chunks.append(replace(chunk, loss_mask=write_part(file, [bits.tobytes()])))
            domain.splits[split] = replace(record, chunks=tuple(chunks))
    write_manifest(directory, manifest)
    return directory


def turns(length: int, chance: np.random.Generator) -> np.ndarray:
    """A mask of turns of 2 to 9 tokens, of which every other one is to be predicted."""
    row = np.zeros(length, dtype=np.uint8)
    at, on = 0, bool(chance.integers(2))
    while at < length:
        size = int(chance.integers(2, 10))
        row[at : at + size] = on
        at, on = at + size, not on
    return row * (chance.random() > 0.1)
