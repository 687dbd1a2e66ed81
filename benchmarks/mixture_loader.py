"""How many tokens per second does the training loader deliver? One JSON line.

Makes about 100 MB of packed random tokens in a temporary directory, and reads them through ``MixtureLoader`` with
0, 1 and 2 workers, alternating. The bar is 10 million tokens/s at 2,048 tokens with the default workers.

``--beside`` alternates with litdata's own loader over one domain and, where it can be imported, mosaicml-streaming
over the same tokens; the bar then is each of them. ``--opening`` asks how long a loader takes from its state to its
first batch, at the start and at position 10,000,000. ``--orders`` asks whether stops anywhere are resumed exactly.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import torch

from orders import check_orders, write_domains, write_numbered, write_split
from rivals import has_mosaicml, litdata_rate, mosaicml_rate, write_mosaicml
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.store import SequenceStore

WEIGHTS = {"cc": 0.67, "github": 0.1, "book": 0.08, "c4": 0.15}


def write_data(directory: Path, *, sequence_length: int, megabytes: int, chunk_bytes: int) -> None:
    """Write domains of equal size."""
    random = np.random.default_rng(0)
    sequences = megabytes * 1_000_000 // (2 * sequence_length * len(WEIGHTS))
    splits = {}
    for name in WEIGHTS:
        tokens = random.integers(0, 50_000, (sequences, sequence_length), dtype=np.uint16)
        per_chunk = max(1, chunk_bytes // (2 * sequence_length))
        splits[name] = write_split(directory / name / "prune", tokens, per_chunk=per_chunk)
    write_domains(directory, splits, length=sequence_length, vocabulary=50_000)


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


def open_at(directory: Path, *, position: int, options: argparse.Namespace) -> float:
    """Seconds from a saved state at ``position`` to the first batch."""
    store = SequenceStore(directory, "prune")
    plan = MixtureSchedule(store.chunk_sizes, global_batch=options.global_batch, seed=17)
    saved = plan.state_dict(plan.start(list(WEIGHTS.values())))
    drawn = [round(position * weight) for weight in WEIGHTS.values()]
    saved |= {"drawn": drawn, "batch": position // options.global_batch, "position": 0}
    start = time.perf_counter()
    store = SequenceStore(directory, "prune")
    loader = MixtureLoader(
        store,
        MixtureSchedule(store.chunk_sizes, global_batch=options.global_batch, seed=17),
        list(WEIGHTS.values()),
        steps=position // options.global_batch + 50,
        update_every_steps=50,
        micro_batch=options.micro_batch,
    )
    loader.load_state_dict(saved)
    next(iter(loader))
    return time.perf_counter() - start


def apart(measure: Callable[[], Any]) -> Any:
    """The result of ``measure`` in a forked process, so that no loader leaves anything to the next."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(measure()))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join(60)
    process.kill()  # one of another loader may have threads that do not end
    return result


def summary(found: list[float], scale: float, digits: int) -> dict[str, Any]:
    return {
        "median": round(statistics.median(found) / scale, digits),
        "spread": [round(min(found) / scale, digits), round(max(found) / scale, digits)],
    }


def measures(directory: Path, options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """What is to be measured, by name."""
    sizes = {"global_batch": options.global_batch, "micro_batch": options.micro_batch}
    found: dict[str, Callable[[], float]] = {}
    for workers in (0, 1, 2):
        read = {"micro_batch": options.micro_batch, "workers": workers}
        found[f"workers_{workers}"] = partial(
            tokens_per_second, directory, workers=workers, steps=options.steps, **sizes
        )
        if options.beside:
            found[f"litdata_workers_{workers}"] = partial(
                litdata_rate, directory, next(iter(WEIGHTS)), sequence_length=options.sequence_length, **read
            )
        if options.beside and has_mosaicml():
            found[f"mosaicml_workers_{workers}"] = partial(mosaicml_rate, directory.parent / "mds", **read)
    return found


def throughput(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of each loader, in turns."""
    if options.beside and has_mosaicml():
        store = SequenceStore(directory, "prune")
        keys = ((d, s) for d in range(len(WEIGHTS)) for s in range(store.sequences(d)))
        tokens = (store[key]["tokens"][0].numpy().astype(np.uint16) for key in keys)
        write_mosaicml(directory.parent / "mds", tokens, sequence_length=options.sequence_length)
    ways = measures(directory, options)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, measure in ways.items():
            rates[name].append(apart(measure))
    result: dict[str, Any] = {
        "question": "mixture_loader",
        "unit": "million tokens/s",
        "bar": "each loader beside it" if options.beside else 10,
        "default_workers": 0,
        **{name: summary(found, 1e6, 2) for name, found in rates.items()},
    }
    if options.beside and not has_mosaicml():
        result["mosaicml"] = "not measured: mosaicml-streaming cannot be imported here"
    return result


def opening(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds to the first batch, at two positions in turns."""
    found: dict[int, list[float]] = {0: [], 10_000_000: []}
    for _ in range(options.repeats):
        for position, seconds in found.items():
            seconds.append(apart(partial(open_at, directory, position=position, options=options)))
    return {
        "question": "mixture_opening",
        "unit": "seconds to the first batch",
        "bar": "at most 0.5 apart",
        **{f"position_{position}": summary(seconds, 1, 4) for position, seconds in found.items()},
    }


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
    parser.add_argument("--stops", type=int, default=100, help="random stops of --orders")
    questions = parser.add_mutually_exclusive_group()
    for flag in ("--beside", "--opening", "--orders"):
        questions.add_argument(flag, action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "data"
        if options.orders:
            write_numbered(directory)
            result = check_orders(directory, stops=options.stops)
        else:
            write_data(
                directory,
                sequence_length=options.sequence_length,
                megabytes=options.megabytes,
                chunk_bytes=options.chunk_bytes,
            )
            result = (opening if options.opening else throughput)(directory, options)
    result["settings"] = vars(options)
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    result["versions"] = {
        "torch": torch.__version__,
        "litdata": litdata.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(result))
    if result.get("combinations_with_differences") or result.get("stops_with_differences"):
        sys.exit(1)


if __name__ == "__main__":
    main()
