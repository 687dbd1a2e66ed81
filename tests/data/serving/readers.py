"""Many readers of one node, counted: requests, bytes, hashes and looks at files.

``python -m tests.data.serving.readers --readers 512 --processes 8`` writes prepared data of three domains, and reads it
by so many readers, each with a manifest, a store and a record of its own, as a process has them; they are dealt to
processes, in each of which they run in threads. Once it is read through the cache, from a mounted directory, and once
in place.
It ends with 1 if a chunk was fetched or hashed twice, a file looked at by two, or a token was wrong.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shear_lit.data.prepared import chunks, reading
from shear_lit.data.serving.remote import RemoteDirectory, RemoteSettings
from shear_lit.data.serving.store import SequenceStore
from tests.data.conftest import write_prepared

PER_CHUNK = 5


class Events:
    """What processes did, a line each in a file that all of them append to."""

    def __init__(self, path):
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, kind, name, size=0):
        os.write(self._file, f"{kind} {name} {size}\n".encode())

    def counted(self):
        """How often each kind of thing was done to each name, and the bytes of each kind."""
        times, sizes = {}, Counter()
        for line in self._path.read_text().splitlines():
            kind, name, size = line.rsplit(" ", 2)
            times.setdefault(kind, Counter())[name] += 1
            sizes[kind] += int(size)
        return times, sizes


def watch(events):
    """Note what this process does from here on: downloads, hashes, and looks at the files of a split."""
    download, hashed, looked = RemoteDirectory._download, chunks.file_hash, reading._split_problem

    def downloading(place, name, target, most, **how):
        download(place, name, target, most, **how)
        events.add("fetched", name, target.stat().st_size)

    def hashing(path):
        events.add("hashed", path.name if path.parent.suffix == ".partial" else "/".join(path.parts[-3:]))
        return hashed(path)

    def looking(root, folder, record, length):
        for chunk in record.chunks:
            events.add("looked", f"{folder}/{chunk.file}")
        return looked(root, folder, record, length)

    RemoteDirectory._download, chunks.file_hash, reading._split_problem = downloading, hashing, looking


def read(place, cache, numbers, path, wrong):
    """Read one sequence of each chunk, in an order of each reader's own."""
    events = Events(path)
    watch(events)

    def reader(number):
        store = SequenceStore(place, "prune", remote=RemoteSettings(cache_directory=str(cache)))
        sizes = store.chunk_sizes.values()
        keys = [(d, n * PER_CHUNK) for d, chunks in enumerate(sizes) for n in range(len(chunks))]
        random.Random(number).shuffle(keys)
        for domain, sequence in keys:
            found = store[domain, sequence]["tokens"][0, :2].tolist()
            if found != [domain, sequence]:
                wrong.put((number, domain, sequence))

    def first_of_node(number):
        os.environ["LOCAL_RANK"] = "0" if number == 0 else "1"  # one process has the first reader alone
        reader(number)

    if 0 in numbers:
        first_of_node(0)
    os.environ["LOCAL_RANK"] = "1"
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(reader, [number for number in numbers if number]))


def counted(work, readers, processes, sequences=80):
    """What so many readers did, remote and in place: (times by kind and name, bytes by kind, wrong sequences)."""
    sizes = {"a": sequences, "b": sequences, "c": sequences}
    directory = write_prepared(work / "data", sizes, per_chunk=PER_CHUNK, splits=("prune",))
    context, results = multiprocessing.get_context("fork"), {}
    for kind, place in {"remote": f"local:{directory}", "in place": str(directory)}.items():
        path, wrong = work / f"{kind}.events", context.Queue()
        dealt = [range(first, readers, processes) for first in range(processes)]
        those = [context.Process(target=read, args=(place, work / "cache", d, path, wrong)) for d in dealt]
        for process in those:
            process.start()
        for process in those:
            process.join()
        assert not any(process.exitcode for process in those), [process.exitcode for process in those]
        results[kind] = (*Events(path).counted(), 0 if wrong.empty() else 1)
    return results


def problems(results):
    """What was done more often than once a node, or read wrongly."""
    found = []
    for kind, (times, _, wrong) in results.items():
        if wrong:
            found.append(f"{kind}: wrong tokens")
        for what, names in times.items():
            twice = [name for name, count in names.items() if count > 1 and name != "manifest.json"]
            found += [f"{kind}: {name} {what} {names[name]} times" for name in twice]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=512)
    parser.add_argument("--processes", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_RUNTIME_DIR"] = work
        results = counted(Path(work), arguments.readers, arguments.processes)
    print(f"{arguments.readers} readers in {arguments.processes} processes of one node")
    for kind, (times, sizes, _) in results.items():
        for what, names in times.items():
            manifests = names.pop("manifest.json", 0)
            most = max(names.values(), default=0)
            print(
                f"{kind}: {what} {len(names)} chunks, each at most {most} times, {sizes[what]:,} bytes; ",
                end="",
            )
            print(f"the manifest {manifests} times")
            if manifests:
                names["manifest.json"] = manifests
    found = problems(results)
    print("\n".join(found) or "each chunk was fetched and hashed once")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
