"""How many tokens per second does the training loader deliver? One JSON line.

Makes about 100 MB of packed random tokens in a temporary directory, and reads them through ``MixtureLoader`` with
0, 1 and 2 workers, alternating. The bar is 10 million tokens/s at 2,048 tokens with the default workers.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import litdata
import numpy as np
import torch

from shear_lit.data.loader import MixtureLoader
from shear_lit.data.manifest import DomainRecord, Manifest, TokenizerRecord, write_manifest
from shear_lit.data.packing import SplitWriter
from shear_lit.data.schedule import MixtureSchedule
from shear_lit.data.store import SequenceStore

WEIGHTS = {"cc": 0.67, "github": 0.1, "book": 0.08, "c4": 0.15}


def write_data(directory: Path, *, sequence_length: int, megabytes: int, chunk_bytes: int) -> Manifest:
    """Write domains of equal size."""
    random = np.random.default_rng(0)
    sequences = megabytes * 1_000_000 // (2 * sequence_length * len(WEIGHTS))
    domains = {}
    for name in WEIGHTS:
        folder = directory / name / "prune"
        writer = SplitWriter(
            folder, sequence_length=sequence_length, token_type="uint16", chunk_bytes=chunk_bytes
        )
        for _ in range(sequences):
            writer.add(random.integers(0, 50_000, sequence_length, dtype=np.uint16))
        domains[name] = DomainRecord(documents=sequences, rejected={}, splits={"prune": writer.finish()})
    tokenizer = TokenizerRecord(name="random", fingerprint="", vocabulary=50_000, bos_id=None, eos_id=None)
    manifest = Manifest(
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        token_type="uint16",
        prepend_bos=False,
        append_eos=False,
        domains=domains,
    )
    write_manifest(directory, manifest)
    return manifest


def tokens_per_second(
    directory: Path, *, workers: int, steps: int, global_batch: int, micro_batch: int
) -> float:
    """Read ``steps`` global batches after one segment of warm-up."""
    store = SequenceStore(directory, "prune")
    schedule = MixtureSchedule(store.chunk_sizes, global_batch=global_batch, seed=17)
    loader = MixtureLoader(
        store,
        schedule,
        list(WEIGHTS.values()),
        steps=50 + steps,
        update_every_steps=50,
        micro_batch=micro_batch,
        workers=workers,
    )
    batches = iter(loader)
    for _ in range(50 * global_batch // micro_batch):
        next(batches)
    start = time.perf_counter()
    read = sum(batch["tokens"].numel() for batch in batches)
    return read / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--global-batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400, help="global batches per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument(
        "--chunk-bytes", type=int, default=2_000_000, help="small: so that windows have many chunks"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates: dict[int, list[float]] = {0: [], 1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "data"
        write_data(
            directory,
            sequence_length=options.sequence_length,
            megabytes=options.megabytes,
            chunk_bytes=options.chunk_bytes,
        )
        sizes = {"global_batch": options.global_batch, "micro_batch": options.micro_batch}
        for _ in range(options.repeats):
            for workers, found in rates.items():
                found.append(tokens_per_second(directory, workers=workers, steps=options.steps, **sizes))
    result = {
        "question": "mixture_loader",
        "unit": "million tokens/s",
        "bar": 10,
        "default_workers": 0,
        **{
            f"workers_{workers}": {
                "median": round(statistics.median(found) / 1e6, 2),
                "spread": [round(min(found) / 1e6, 2), round(max(found) / 1e6, 2)],
            }
            for workers, found in rates.items()
        },
        "settings": vars(options),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "litdata": litdata.__version__, "numpy": np.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
