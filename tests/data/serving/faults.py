"""What may happen while remote data is read: the run goes on or ends in one line, and no token is ever wrong.

    python -m tests.data.serving.faults --kills 20 --work runs/faults

Each fault meets a reader in place of the node's first process, which fetches ahead, and of another, which does not,
with 0, 1 and 2 workers; readers, or one of their workers, are killed while they fetch, and another goes on in the same
cache. Waits between attempts are a hundredth of their length, and so is the outage of ten minutes.

Each case is a line of ``--work``/log.jsonl; what was stopped goes on behind the last. It prints one JSON line, and ends
with 1 where a case is not as it should be.
"""

import argparse
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from types import SimpleNamespace

from shear_lit.data.errors import DataError
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.serving import cache, prefetch, remote
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.data.serving.store import SequenceStore
from tests.data.conftest import LENGTH, write_prepared
from tests.data.serving.storage import Storage
from tests.training.forks import ForkError, start

PER_CHUNK, GLOBAL, STEPS = 5, 8, 24
CHUNK_BYTES = PER_CHUNK * LENGTH * 2 + 4 * (PER_CHUNK + 2)
SHORTER, OUTAGE_SECONDS = 100, 600
CHUNKS_BEFORE = 24
"""Requests of a reader before an outage or a full disk: its first windows have 16 chunks, and it reads 64."""
ENDS, GOES_ON = "ends in one line", "goes on"
FAULTS = {
    "none": GOES_ON,
    "500": GOES_ON,
    "slow": GOES_ON,
    "cut": GOES_ON,
    "flip": GOES_ON,
    "outage": GOES_ON,
    "gone": ENDS,
    "forbidden": ENDS,
    "little room": GOES_ON,
    "disk full": ENDS,
}
"""What happens, and how the reader is to end."""


def read(place, home, *, endpoint="", workers=0, first=True, disk=None, attempts=20, pace=0.0):
    """The tokens of a whole run, batch after batch, or the message with which it ended."""
    os.environ.update(LOCAL_RANK="0" if first else "1", AWS_ENDPOINT_URL=endpoint, XDG_RUNTIME_DIR=home)
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
    for module in (prefetch, remote):
        module.wait_before = lambda attempt: min(2 ** (attempt - 1), 60) / SHORTER
    multiprocessing.set_start_method("fork", force=True)  # of workers, which have what is changed here
    if disk is not None:
        _small_disk(Path(home) / "cache", disk)
    try:
        seen = []
        for batch in run_of(place, home, workers=workers, attempts=attempts):
            time.sleep(pace)
            seen.append(batch["tokens"][:, :2].tolist())
        return seen
    except DataError as error:
        return str(error)


def run_of(place, home, *, workers=0, attempts=20):
    settings = RemoteSettings(
        cache_directory=f"{home}/cache", cache_bytes=60 * CHUNK_BYTES, attempts=attempts
    )
    store = SequenceStore(place, "prune", remote=settings)
    schedule = MixtureSchedule(store.chunk_sizes, global_batch=GLOBAL, seed=5)
    return MixtureLoader(
        store, schedule, [0.6, 0.4], steps=STEPS, update_every_steps=6, micro_batch=4, workers=workers
    )


def _small_disk(folder, size):
    """A disk of so many bytes, which is full from when a file ``full`` lies beside the cache."""

    def used():
        total = 0
        for place, _, names in os.walk(folder):  # which passes over what a thread has just removed
            for name in names:
                with suppress(FileNotFoundError):
                    total += (Path(place) / name).stat().st_size
        return total

    def free(_):
        with_room = not (folder.parent / "full").exists()
        return SimpleNamespace(free=max(0, size - used()) if with_room else 0)

    written = remote._Limited.write

    def write(file, content):
        if Path(file._file.name).is_relative_to(folder) and free(None).free < len(content):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(file, content)

    cache.shutil = SimpleNamespace(disk_usage=free, rmtree=shutil.rmtree)
    remote._Limited.write = write


@contextmanager
def happening(fault, storage, folder, numbers):
    """Let it happen to the requests of a reader, and give what the reader is told."""
    storage.failing, storage.faults, options = 0, [], {"pace": 0.01}
    begun = len(storage.asked)

    def later(do, seconds=0.0):
        """Let something happen so long after the reader has asked for some chunks."""

        def wait():
            while len(storage.asked) < begun + CHUNKS_BEFORE:
                time.sleep(0.01)
            time.sleep(seconds)
            do()

        threading.Thread(target=wait, daemon=True).start()

    if fault in ("500", "slow", "cut", "flip"):
        storage.faults = [""] * 3 + [fault if numbers.random() < 1 / 3 else "" for _ in range(3000)]
    elif fault == "forbidden":
        storage.faults = [""] * 20 + ["403"] * 10000
    elif fault in ("outage", "gone"):
        later(lambda: setattr(storage, "failing", 10**9))
        if fault == "outage":
            later(lambda: setattr(storage, "failing", 0), OUTAGE_SECONDS / SHORTER)
        else:
            options["attempts"] = 4
    elif fault == "little room":
        options["disk"] = 20 * CHUNK_BYTES
    elif fault == "disk full":
        options["disk"] = 60 * CHUNK_BYTES
        later((folder / "full").touch)
    yield options
    storage.failing, storage.faults = 0, []


def fault_case(storage, address, expected, folder, *, fault, workers, first, seed):
    """What is wrong where a fault meets a reader; nothing where nothing is."""
    with happening(fault, storage, folder, random.Random(seed)) as options:
        reader = start(
            read,
            folder / "log",
            place=address,
            home=str(folder),
            endpoint=storage.url,
            workers=workers,
            first=first,
            **options,
        )
        (found,) = reader.wait(120)
    if isinstance(found, list):
        return "" if found == expected and FAULTS[fault] == GOES_ON else f"read {found == expected}"
    line = found.strip().splitlines()[-1]
    is_said = "resume the run" in line and ("could not be fetched" in line or "does not fit" in line)
    return "" if is_said and FAULTS[fault] == ENDS else found


def kill_case(storage, address, expected, folder, *, workers, whom, seed):
    """What is wrong where a reader, or one of its workers, is killed, and another reads on in its cache."""
    numbers = random.Random(seed)
    storage.faults = [numbers.choice(("", "slow")) for _ in range(3000)]
    told = {"place": address, "home": str(folder), "endpoint": storage.url, "workers": workers}
    reader = start(read, folder / "log", pace=0.01, **told)
    (worker,), begun = reader.workers, len(storage.asked)
    reader.until(lambda: len(storage.asked) > begun + numbers.randrange(1, 60))
    time.sleep(numbers.random() / 5)
    victims = [worker.pid]
    if whom == "worker":
        victims = [
            int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        ]
    if victims:
        os.kill(numbers.choice(victims), signal.SIGKILL)
    if whom == "worker":
        worker.join(20)
    reader.kill()
    storage.faults = []
    (found,) = start(read, folder / "again", first=False, **told).wait(120)
    left = [path.name for path in (folder / "cache").glob("*.partial")]
    return "" if found == expected and not left else f"read {found == expected}, left {left}"


def cases(kills):
    """Each case by its name: (function, options)."""
    found = {}
    for fault, workers, first in product(FAULTS, (0, 1, 2), (True, False)):
        name = f"{fault}, {workers} workers, {'first' if first else 'another'}"
        found[name] = (fault_case, {"fault": fault, "workers": workers, "first": first, "seed": len(found)})
    for seed in range(kills):
        workers, whom = (0, 1, 2)[seed % 3], "worker" if seed % 3 and seed % 2 else "reader"
        found[f"kill {seed}, {workers} workers, {whom}"] = (
            kill_case,
            {"workers": workers, "whom": whom, "seed": seed},
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose names contain it")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    log = arguments.work / "log.jsonl"
    done = {}
    if log.exists():
        done = {case["case"]: case for case in map(json.loads, log.read_text().splitlines())}
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
    storage = Storage()
    storage.start()
    with tempfile.TemporaryDirectory() as scratch:
        directory = write_prepared(
            Path(scratch) / "data", {"a": 200, "b": 120}, per_chunk=PER_CHUNK, splits=("prune",)
        )
        address, expected = storage.upload(directory, "data"), read(str(directory), scratch)
        for name, (case, options) in cases(arguments.kills).items():
            if name in done or arguments.only not in name:
                continue
            folder = Path(tempfile.mkdtemp(dir=scratch))
            begun = time.monotonic()
            try:
                wrong = case(storage, address, expected, folder, **options)
            except ForkError as error:
                wrong = str(error)
            done[name] = {"case": name, "wrong": wrong, "seconds": round(time.monotonic() - begun, 1)}
            with log.open("a") as file:
                file.write(json.dumps(done[name]) + "\n")
    storage.stop()
    wrong = {name: case["wrong"] for name, case in done.items() if case["wrong"]}
    kinds = Counter(name.partition(",")[0].partition(" ")[0] for name in done)
    print(json.dumps({"cases": len(done), "kinds": kinds, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
