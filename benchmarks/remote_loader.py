"""How fast do loaders read remote data, and who waits for the network? S3 on 127.0.0.1, one JSON line.

    python benchmarks/remote_loader.py                              # about 15 minutes of two cores
    python benchmarks/remote_loader.py --megabytes 40 --chunk-bytes 250000 --repeats 1

The server is moto's, in a process of its own on the same cores, so that it counts against every loader alike. Each
loader reads all tokens once, from an empty cache, in a process of its own: this one with the chunks fetched ahead (as
the first process of a node does) and without (as the others), litdata's over one domain that has as many tokens, and
mosaicml-streaming's over the same tokens where it can be imported. The rate counts from the first batch that is asked
for, so that the wait for the first window is in it.

``--paced`` takes batches no faster than so many million tokens/s, as training does, and adds up how long the loader
then lets it wait: before the first batch, and after the first window of each domain has been read.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
from litdata.streaming import downloader as litdata_downloader
from torch.utils.data import DataLoader

from machine import machine
from mixture_loader import WEIGHTS, apart
from orders import write_domains, write_split
from rivals import has_mosaicml, write_mosaicml
from shear_lit.data.order.permutation import WINDOW_CHUNKS
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.data.serving.store import SequenceStore

sys.path.insert(0, str(Path(__file__).parents[1]))

LENGTH, GLOBAL, MICRO, EVERY = 2048, 32, 4, 50
ACCOUNT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
STALL_SECONDS = 0.01
"""What a batch takes at most where nothing is waited for: the order of a new window takes some of it."""

Batches = Iterator[Any]


def write_data(work: Path, *, megabytes: int, chunk_bytes: int) -> None:
    """Write the domains, in sizes that their weights read once; one domain as large as all; and mosaicml's format."""
    random, per_chunk = np.random.default_rng(0), max(1, chunk_bytes // (2 * LENGTH))
    total = megabytes * 1_000_000 // (2 * LENGTH)
    parts = {
        name: random.integers(0, 50_000, (round(total * weight), LENGTH), dtype=np.uint16)
        for name, weight in WEIGHTS.items()
    }
    splits = {
        name: write_split(work / "mixture" / name / "prune", tokens, per_chunk=per_chunk)
        for name, tokens in parts.items()
    }
    write_domains(work / "mixture", splits, length=LENGTH, vocabulary=50_000)
    together = np.concatenate(list(parts.values()))
    write_split(work / "one" / "prune", together, per_chunk=per_chunk)
    if has_mosaicml():
        write_mosaicml(work / "mds", together, sequence_length=LENGTH)


def serve(url: Any, directory: str) -> None:
    """Serve a directory by S3 until the process is ended."""
    from tests.data.serving.storage import Storage

    storage = Storage()
    storage.start()
    storage.upload(directory, "data")
    url.send(storage.url)
    time.sleep(1e6)


@contextmanager
def server(directory: Path) -> Iterator[None]:
    """A server whose address the environment says."""
    os.environ.update(ACCOUNT)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(sender, str(directory)), daemon=True)
    process.start()
    url = receiver.recv()
    os.environ.update(AWS_ENDPOINT_URL=url, S3_ENDPOINT_URL=url)
    yield
    process.kill()
    process.join()


def ours(cache: Path, *, workers: int, ahead: bool, sequences: int) -> Batches:
    """The batches of this loader, mixed and shuffled."""
    os.environ.update(LOCAL_RANK="0" if ahead else "1", XDG_RUNTIME_DIR=str(cache))
    store = SequenceStore(
        "s3://shelf/data/mixture", "prune", remote=RemoteSettings(cache_directory=str(cache))
    )
    steps = sequences // GLOBAL
    return iter(
        MixtureLoader(
            store,
            MixtureSchedule(store.chunk_sizes, global_batch=GLOBAL, seed=17),
            list(WEIGHTS.values()),
            steps=steps,
            update_every_steps=EVERY,
            micro_batch=MICRO,
            workers=workers,
        )
    )


def litdatas(cache: Path, *, workers: int) -> Batches:
    """Those of litdata's loader, over one domain in order."""
    litdata_downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # which it takes from nowhere else
    data = StreamingDataset(
        "s3://shelf/data/one/prune",
        cache_dir=str(cache),
        item_loader=TokensLoader(block_size=LENGTH),
        shuffle=False,
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
    )
    return iter(StreamingDataLoader(data, batch_size=MICRO, num_workers=workers))


def mosaicmls(cache: Path, *, workers: int) -> Batches:
    """Those of mosaicml-streaming's, in order."""
    from streaming import StreamingDataset as MosaicmlDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    data: Any = MosaicmlDataset(
        remote="s3://shelf/data/mds", local=str(cache), shuffle=False, batch_size=MICRO
    )
    return iter(DataLoader(data, batch_size=MICRO, num_workers=workers))


def size(batch: Any) -> int:
    """Tokens of a batch of any of them."""
    return int((batch["tokens"] if isinstance(batch, dict) else batch).numel())


def rate(begin: Callable[[Path], Batches]) -> float:
    """Million tokens per second over everything, from an empty cache."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:  # some write on for a moment
        start, read = time.perf_counter(), 0
        for batch in begin(Path(cache)):
            read += size(batch)
        return read / (time.perf_counter() - start) / 1e6


def waits(begin: Callable[[Path], Batches], *, pace: float, first: int) -> dict[str, float]:
    """Seconds that somebody waits who takes ``pace`` tokens per second; ``first``: sequences of the first windows."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        batches, read, taken = begin(Path(cache)), 0, []
        start = time.perf_counter()
        next(batches)
        found = {"before the first batch": time.perf_counter() - start}
        due = time.perf_counter()
        while True:
            due = max(due + MICRO * LENGTH / pace, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
            asked = time.perf_counter()
            if (batch := next(batches, None)) is None:
                break
            read += size(batch) // LENGTH
            if read > first:
                taken.append(time.perf_counter() - asked)
    stalls = [seconds for seconds in taken if seconds > STALL_SECONDS]
    return {
        **found,
        "after the first window": sum(stalls),
        "waits": len(stalls),
        "longest": max(taken, default=0.0),
        "batches": len(taken),
    }


def median(found: list[float]) -> dict[str, Any]:
    """The median with its range."""
    return {
        "median": round(statistics.median(found), 3),
        "range": [round(min(found), 3), round(max(found), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=240)
    parser.add_argument(
        "--chunk-bytes", type=int, default=500_000, help="small: so that windows change often"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--paced", type=float, help="million tokens/s that are taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sequences = options.megabytes * 1_000_000 // (2 * LENGTH)
    loaders: dict[str, Callable[..., Batches]] = {
        "fetched ahead": partial(ours, ahead=True, sequences=sequences),
        "not fetched ahead": partial(ours, ahead=False, sequences=sequences),
        "litdata": litdatas,
        **({"mosaicml": mosaicmls} if has_mosaicml() else {}),
    }
    found: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), megabytes=options.megabytes, chunk_bytes=options.chunk_bytes)
        with server(Path(folder)):
            for _ in range(options.repeats):
                for workers in (0, 1, 2):
                    for name, begin in loaders.items():
                        these = partial(begin, workers=workers)
                        if options.paced:
                            if begin in (litdatas, mosaicmls):
                                continue
                            first = (
                                WINDOW_CHUNKS * options.chunk_bytes // (2 * LENGTH * min(WEIGHTS.values()))
                            )
                            measure = partial(waits, these, pace=options.paced * 1e6, first=int(first))
                        else:
                            measure = partial(rate, these)
                        found.setdefault(f"{name}, {workers} workers", []).append(apart(measure))
    result: dict[str, Any] = {"question": "remote_loader", **vars(options), **machine()}
    if options.paced:
        keys = ("before the first batch", "after the first window", "waits", "longest", "batches")
        result["seconds"] = {
            name: {key: median([each[key] for each in several]) for key in keys}
            for name, several in found.items()
        }
    else:
        result["million tokens/s"] = {name: median(several) for name, several in found.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
