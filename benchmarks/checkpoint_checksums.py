"""What comparing a checkpoint with its checksums adds to reading it, in seconds for a gigabyte."""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as sharded

from machine import machine
from shear_lit.training.shards import checksum_in, load_meta, load_shards, save_shards
from shear_lit.training.strategies import WholeFileIO

TENSOR_BYTES = 32 * 1024**2


def state_of(gigabytes: float) -> dict[str, torch.Tensor]:
    """Random weights of about that size, in tensors as a model of a billion parameters has them."""
    generator = torch.Generator().manual_seed(0)
    count = max(1, round(gigabytes * 1e9 / TENSOR_BYTES))
    return {f"weight_{index}": torch.randn(TENSOR_BYTES // 4, generator=generator) for index in range(count)}


def compare(with_checks: Callable[[], Any], without: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of each, taken in turn after one reading that is not counted."""
    with_checks()
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(repeats):
        for name, read in (("with", with_checks), ("without", without)):
            gc.collect()
            start = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - start)
    added = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    return {
        **{name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "added": round(statistics.median(added), 3),
        "added_range": [round(min(added), 3), round(max(added), 3)],
    }


def measure_file(folder: Path, state: dict[str, torch.Tensor], repeats: int) -> dict[str, Any]:
    """A resume from a single file, as far as it reads it."""
    path = folder / "step=000001.ckpt"
    torch.save({"state_dict": state}, path)
    found = compare(
        lambda: WholeFileIO().load_checkpoint(path),
        lambda: torch.load(path, map_location="cpu", weights_only=True),
        repeats,
    )
    return {**found, "gigabytes": path.stat().st_size / 1e9}


def measure_shards(folder: Path, state: dict[str, torch.Tensor], repeats: int) -> dict[str, Any]:
    """A resume from shards, as far as one process reads them into tensors that are there."""
    path = folder / "step=000001"
    save_shards({"state_dict": state}, path, {}, writes_meta=True, no_dist=True)
    target = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    found = compare(
        lambda: load_shards({"state_dict": target}, path, checksum_in(load_meta(path), path), no_dist=True),
        lambda: sharded.load({"state_dict": target}, checkpoint_id=path, no_dist=True),
        repeats,
    )
    assert all(torch.equal(target[name], tensor) for name, tensor in state.items())
    return {**found, "gigabytes": sum(file.stat().st_size for file in path.iterdir()) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", help="folder on the disk that is read from (a temporary one)")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    load = os.getloadavg()[0]
    state, kinds = state_of(settings.gigabytes), {}
    for name, measure in (("file", measure_file), ("shards", measure_shards)):
        with tempfile.TemporaryDirectory(dir=settings.work) as folder:
            kinds[name] = measure(Path(folder), state, settings.repeats)
        kinds[name]["added_per_gigabyte"] = round(kinds[name]["added"] / kinds[name]["gigabytes"], 3)
    print(
        json.dumps(
            {
                "question": "checkpoint_checksums",
                "repeats": settings.repeats,
                "load_before": round(load, 2),
                **kinds,
                **machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
