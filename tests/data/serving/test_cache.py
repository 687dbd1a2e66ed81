"""A bounded cache that processes share: no read breaks, no bound is passed, no download is left over."""

import errno
import hashlib
import multiprocessing
import os
import random
import shutil
import threading
import time

import pytest
from filelock import FileLock

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import ChunkRecord
from shear_lit.data.serving import cache as cache_module
from shear_lit.data.serving.cache import ChunkCache

SIZE = 1000


def content(number):
    return bytes([number]) * SIZE


def record(number):
    digest = hashlib.sha256(content(number)).hexdigest()
    return ChunkRecord(file=f"chunk-{number}.bin", bytes=SIZE, sequences=1, sha256=digest)


def download(number):
    return lambda path: path.write_bytes(content(number))


def read(cache, number, how=None):
    descriptor = cache.open(record(number), how or download(number))
    try:
        return os.pread(descriptor, SIZE, 0)
    finally:
        os.close(descriptor)


def held(folder):
    return sorted(path.name for path in folder.glob("*.bin"))


def names(*numbers):
    return sorted(f"{record(number).sha256}.bin" for number in numbers)


def test_the_chunk_read_longest_ago_goes_first(tmp_path):
    cache = ChunkCache(tmp_path, 3 * SIZE)
    for number in (1, 2, 3, 1, 4):
        assert read(cache, number) == content(number)
        time.sleep(0.01)
    assert held(tmp_path) == names(1, 3, 4)


def test_a_removed_chunk_can_be_read_to_its_end(tmp_path):
    cache = ChunkCache(tmp_path, SIZE)
    descriptor = cache.open(record(1), download(1))
    read(cache, 2)
    assert held(tmp_path) == names(2)
    assert os.pread(descriptor, SIZE, 0) == content(1)
    os.close(descriptor)


def test_a_download_that_fails_leaves_nothing(tmp_path):
    cache = ChunkCache(tmp_path, 2 * SIZE)

    def fails(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        read(cache, 1, fails)
    assert held(tmp_path) == [] and not list(tmp_path.glob("*.partial"))
    assert read(cache, 1) == content(1)


def test_a_download_of_a_killed_process_is_removed_and_one_under_way_is_not(tmp_path):
    tmp_path.mkdir(exist_ok=True)
    numbers = [n for n in range(50) if record(n).sha256[:2] != record(99).sha256[:2]]
    dead, alive = (
        numbers[0],
        next(n for n in numbers if record(n).sha256[:2] != record(numbers[0]).sha256[:2]),
    )
    for number in (dead, alive):
        folder = tmp_path / f"{record(number).sha256}-{SIZE}.partial"
        folder.mkdir()
        (folder / "chunk").write_bytes(b"half")
    cache = ChunkCache(tmp_path, 2 * SIZE)
    with FileLock(tmp_path / f"{record(alive).sha256[:2]}.lock"):
        assert read(cache, 99) == content(99)
        assert [p.name for p in tmp_path.glob("*.partial")] == [f"{record(alive).sha256}-{SIZE}.partial"]
    assert read(cache, 98) == content(98)
    assert held(tmp_path) == names(98, 99) and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("free", [10**9, SIZE - 1], ids=["bound", "disk"])
def test_a_chunk_that_cannot_fit_is_refused(tmp_path, monkeypatch, free):
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    cache = ChunkCache(tmp_path, SIZE - 1 if free == 10**9 else 10 * SIZE)
    with pytest.raises(DataError, match=r"remote\.cache_bytes=.*does not fit.*Raise cache_bytes, make space"):
        read(cache, 1)
    assert cache.free() == SIZE - 1


def test_a_full_disk_is_treated_as_the_bound(tmp_path, monkeypatch):
    cache = ChunkCache(tmp_path, 100 * SIZE)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        cache_module.shutil, "disk_usage", lambda path: usage._replace(free=(3 - len(held(tmp_path))) * SIZE)
    )
    for number in range(6):
        assert read(cache, number) == content(number)
        time.sleep(0.01)
    assert held(tmp_path) == names(3, 4, 5)


def test_what_others_have_yet_to_write_is_no_free_disk(tmp_path, monkeypatch):
    """The disk has room for one chunk and a half: the second download waits until the first one is there, and goes."""
    usage, most = shutil.disk_usage(tmp_path), SIZE * 3 // 2

    def free(path):
        written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        return usage._replace(free=most - written)

    monkeypatch.setattr(cache_module.shutil, "disk_usage", free)
    cache, started, go_on = ChunkCache(tmp_path, 100 * SIZE), threading.Event(), threading.Event()

    def slowly(path):
        path.write_bytes(content(1)[: SIZE // 4])
        started.set()
        assert go_on.wait(10)
        path.write_bytes(content(1))

    def second(path):
        found.append(go_on.is_set())
        path.write_bytes(content(2))

    found = []
    first = threading.Thread(target=read, args=(cache, 1, slowly))
    other = threading.Thread(target=read, args=(ChunkCache(tmp_path, 100 * SIZE), 2, second))
    first.start()
    assert started.wait(10)
    other.start()
    time.sleep(0.2)
    go_on.set()
    first.join(10)
    other.join(10)
    assert found == [True] and held(tmp_path) == names(2)


def test_a_chunk_is_hashed_once_for_all_processes_of_a_node(tmp_path, monkeypatch):
    """Two caches know nothing of each other, as processes do; reading moves the clock and not the mark."""
    seen, whole = [], cache_module.content_problem
    monkeypatch.setattr(
        cache_module, "content_problem", lambda path, *rest: seen.append(path.name) or whole(path, *rest)
    )
    for _ in range(3):
        assert read(ChunkCache(tmp_path, 2 * SIZE), 1) == content(1)
    assert seen == []  # the download was verified as it came
    (path,) = tmp_path.glob("*.bin")
    path.touch()
    for _ in range(3):
        assert read(ChunkCache(tmp_path, 2 * SIZE), 1) == content(1)
    assert seen == [path.name]


def test_a_flipped_byte_is_found_by_the_process_that_verified_the_chunk(tmp_path):
    cache = ChunkCache(tmp_path, 2 * SIZE)
    read(cache, 1)
    (path,) = tmp_path.glob("*.bin")
    for those in (cache, ChunkCache(tmp_path, 2 * SIZE)):
        time.sleep(0.01)  # the clock of a disk has steps
        path.write_bytes(b"x" + content(1)[1:])
        assert read(those, 1) == content(1)


def hammer(folder, seed, broken):
    cache, numbers = ChunkCache(folder, 4 * SIZE), random.Random(seed)

    def slowly(number):
        def write(path):
            with path.open("wb") as file:
                file.write(content(number)[:500])
                time.sleep(0.002)
                file.write(content(number)[500:])

        return write

    for _ in range(60):
        number = numbers.randrange(8)
        if read(cache, number, slowly(number)) != content(number):
            broken.put(number)


def test_processes_share_a_cache_that_holds_half_of_what_they_read(tmp_path):
    context = multiprocessing.get_context("fork")
    broken = context.Queue()
    those = [context.Process(target=hammer, args=(tmp_path, seed, broken)) for seed in range(3)]
    for process in those:
        process.start()
    most = 0
    while any(process.is_alive() for process in those):
        with FileLock(tmp_path / "room.lock"):  # nobody removes one meanwhile
            most = max(most, len(held(tmp_path)))
        time.sleep(0.001)
    assert [process.exitcode for process in those] == [0, 0, 0]
    assert broken.empty() and most == 4
    assert not list(tmp_path.glob("*.partial"))


def test_a_download_under_way_is_room_taken(tmp_path):
    cache = ChunkCache(tmp_path, 2 * SIZE)
    seen = []

    def while_another_waits(path):
        seen.append(cache.free())
        other = ChunkCache(tmp_path, 2 * SIZE)
        read(other, 2)
        time.sleep(0.01)
        read(other, 3)
        seen.append(len(held(tmp_path)))
        path.write_bytes(content(1))

    assert len({record(n).sha256[:2] for n in (1, 2, 3)}) == 3
    assert read(cache, 1, while_another_waits) == content(1)
    assert seen[1] == 1 and len(held(tmp_path)) == 2


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"remote\.cache_directory=.*cannot be written to.*Name another"):
        ChunkCache(tmp_path / "file" / "cache", SIZE).free()
