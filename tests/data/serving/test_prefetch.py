"""What is fetched before it is read: the right chunks, in time, by one process of a node, and nothing lost for it."""

import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.order.ahead import WINDOWS, ChunksAhead
from shear_lit.data.order.permutation import WINDOW_CHUNKS, DomainOrder
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.serving import prefetch as prefetch_module
from shear_lit.data.serving.cache import ChunkCache, PassedByError
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.prefetch import Prefetch
from shear_lit.data.serving.remote import RemoteDirectory, RemoteError, RemoteSettings
from shear_lit.data.serving.store import SequenceStore
from tests.data.conftest import write_prepared
from tests.data.serving.test_cache import SIZE, content, download, held, names, record

WEIGHTS, PER_CHUNK = (0.7, 0.3), 5


def chunk_of(sequence):
    return sequence // PER_CHUNK


def first_needed(schedule, state, steps):
    """The global batch in which the order first reads each chunk."""
    found = {}
    while state.batch < steps:
        number = state.batch
        batch, state = schedule.next_batch(state)
        for domain, sequence in zip(batch.domain.tolist(), batch.sequence.tolist(), strict=True):
            found.setdefault((domain, chunk_of(sequence)), number)
    return found


@pytest.mark.parametrize("caps", [{}, {"a": 0.6}])
def test_chunks_ahead_are_those_that_the_order_reads_next_in_its_order(caps):
    """Of each domain as many as two windows have, and none that comes after the run's end."""
    sizes, steps = {"a": [PER_CHUNK] * 40, "b": [PER_CHUNK] * 22}, 25
    schedule = MixtureSchedule(sizes, global_batch=16, seed=3, max_epochs=caps)
    ahead, state = ChunksAhead(sizes, schedule, steps=steps), schedule.start(WEIGHTS)
    orders = [DomainOrder(name, chunks, 3) for name, chunks in sizes.items()]
    while state.batch < steps:
        needed, chunks = first_needed(schedule, state, steps), ahead.chunks(state)
        ends = ahead.windows(state)
        for domain in range(len(sizes)):
            ours = [chunk for chunk in chunks if chunk[0] == domain]
            there = sorted((batch, chunk) for chunk, batch in needed.items() if chunk[0] == domain)
            assert len(ours) <= WINDOWS * WINDOW_CHUNKS and len(set(ours)) == len(ours)
            if not caps:  # a weight that a cap frees goes to the others before long
                assert len(set(ours) - set(needed)) <= 1  # what is owed is rounded up
                present = orders[domain].draws(state.drawn[domain], ends[domain] - state.drawn[domain])
                assert set(ours) >= set(needed) & {(domain, chunk_of(s)) for s in present.tolist()}
            soon = [chunk for _, chunk in there[: len(ours)]]
            assert len(set(ours) & set(soon)) >= len(ours) - WINDOW_CHUNKS // 2
        batches = [needed[chunk] for chunk in chunks if chunk in needed]
        assert all(later >= earlier - 2 for earlier, later in pairwise(batches))
        _, state = schedule.next_batch(state)


def test_domain_without_weight_or_with_nothing_left_is_not_fetched():
    sizes = {"a": [PER_CHUNK] * 20, "b": [PER_CHUNK] * 20}
    schedule = MixtureSchedule(sizes, global_batch=10, seed=3, max_epochs={"a": 0.25})
    ahead = ChunksAhead(sizes, schedule, steps=100)
    assert {domain for domain, _ in ahead.chunks(schedule.start([0.0, 1.0]))} == {1}
    state = schedule.start([0.5, 0.5])
    read = {chunk for chunk in first_needed(schedule, state, 5) if chunk[0] == 0}
    assert {chunk for chunk in ahead.chunks(state) if chunk[0] == 0} == read  # 25 of 100 sequences
    while not state.exhausted[0]:
        _, state = schedule.next_batch(state)
    assert {domain for domain, _ in ahead.chunks(state)} == {1}


def test_windows_stay_the_same_while_the_chunks_do():
    sizes = {"a": [PER_CHUNK] * 20, "b": [PER_CHUNK] * 20}
    schedule = MixtureSchedule(sizes, global_batch=10, seed=3)
    ahead, state, seen = ChunksAhead(sizes, schedule, steps=40), schedule.start([0.5, 0.5]), {}
    for _ in range(30):
        first = set(ahead.chunks(state))
        windows = ahead.windows(state)
        assert first <= seen.setdefault(windows, first)
        _, state = schedule.next_batch(state)
    assert [ends[0] for ends in seen] == [40, 80, 100, 140, 180]  # the third ends the epoch


class Slow:
    """Downloads that take their time; who asked for what is noted."""

    def __init__(self, seconds, monkeypatch, fails=lambda asked: False):
        self.by, self.under_way, self.changed = {}, 0, time.monotonic()
        whole = RemoteDirectory._download

        def slowly(place, name, target, most, **how):
            if name.endswith(".bin"):
                asked = self.by.setdefault(name, [])
                asked.append(threading.current_thread().name)
                self.count(1)
                try:
                    time.sleep(seconds)
                    if fails(asked):
                        raise TimeoutError("no answer")
                finally:
                    self.count(-1)
            whole(place, name, target, most, **how)

        monkeypatch.setattr(RemoteDirectory, "_download", slowly)

    def count(self, more):
        self.under_way += more
        self.changed = time.monotonic()

    def settle(self):
        """Read on when nothing more is fetched, as somebody does who is slower than the network."""
        while self.under_way or time.monotonic() < self.changed + 0.1:
            time.sleep(0.02)

    def waited_for(self):
        """The chunks that a reader fetched itself."""
        return [name for name, threads in self.by.items() if "MainThread" in threads]


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def ended(within=5):
    end = time.monotonic() + within
    while running() and time.monotonic() < end:
        time.sleep(0.01)
    return not running()


@pytest.fixture
def directory(tmp_path):
    return write_prepared(tmp_path / "data", {"a": 200, "b": 120}, per_chunk=PER_CHUNK, splits=("prune",))


def loader(place, tmp_path, *, steps=24, workers=0, every=6, **remote):
    store = SequenceStore(
        place, "prune", remote=RemoteSettings(cache_directory=str(tmp_path / "cache"), **remote)
    )
    schedule = MixtureSchedule(store.chunk_sizes, global_batch=8, seed=5)
    return MixtureLoader(
        store, schedule, WEIGHTS, steps=steps, update_every_steps=every, micro_batch=4, workers=workers
    )


def read(run, settle=lambda: None):
    seen = []
    for batch in run:
        settle()
        seen.append(batch["tokens"].tolist())
    return seen


@pytest.mark.parametrize("every", [6, 24])
def test_nobody_waits_for_the_network_after_the_first_window(directory, tmp_path, monkeypatch, every):
    """Also within a segment that is longer than a window: 40 sequences of each domain, of which a has 16 in 3 steps."""
    slow = Slow(0.01, monkeypatch)
    seen = read(loader(f"local:{directory}", tmp_path, every=every), slow.settle)
    assert seen == read(loader(directory, tmp_path, every=every))
    assert set(map(len, slow.by.values())) == {1}  # none was fetched twice
    first = 2 * WINDOW_CHUNKS  # those of the present windows, for which the first steps must wait
    assert len(slow.by) > 2 * first and set(slow.waited_for()) <= set(list(slow.by)[:first])
    assert ended()


def test_it_is_the_threads_that_fetch(directory, tmp_path, monkeypatch):
    """Without them the reader waits for each chunk: the other processes of a node have none."""
    slow = Slow(0, monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "1")
    read(loader(f"local:{directory}", tmp_path))
    assert len(slow.waited_for()) == len(slow.by) > 2 * WINDOW_CHUNKS


def test_what_is_kept_is_marked_as_read_once_a_second(directory, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(prefetch_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    store = SequenceStore(
        f"local:{directory}", "prune", remote=RemoteSettings(cache_directory=str(tmp_path / "cache"))
    )
    schedule = MixtureSchedule(store.chunk_sizes, global_batch=8, seed=5)
    state = schedule.start(WEIGHTS)
    marked = []
    monkeypatch.setattr(
        store.chunks, "touch", lambda folder, file: marked.append((folder, file.file)) is None
    )
    with Prefetch(store, schedule, steps=24, documents_apart=False) as prefetch:
        for seconds, times in ((0.0, 1), (0.5, 1), (0.6, 2), (0.1, 2), (5.0, 3)):
            now[0] += seconds
            prefetch.look(state)
            once = marked[: len(set(marked))]
            assert once and marked == once * times


def test_data_in_place_has_no_threads(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch_module.threading, "Thread", None)
    assert len(read(loader(directory, tmp_path))) == 48


def test_workers_read_what_was_fetched_for_them(directory, tmp_path):
    seen = read(loader(f"local:{directory}", tmp_path, workers=2))
    assert seen == read(loader(directory, tmp_path)) and ended()


def test_a_run_that_is_left_early_ends_its_threads(directory, tmp_path, monkeypatch):
    Slow(0.2, monkeypatch)
    batches = iter(loader(f"local:{directory}", tmp_path))
    next(batches)
    assert len(running()) == prefetch_module.THREADS
    batches.close()
    assert ended()


def test_what_fails_is_fetched_again_and_the_reader_need_not_know(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch_module, "wait_before", lambda attempt: 0.01)
    monkeypatch.setattr("shear_lit.data.serving.remote.wait_before", lambda attempt: 0.01)
    slow = Slow(0, monkeypatch, fails=lambda asked: len(asked) <= 2)
    seen = read(loader(f"local:{directory}", tmp_path), slow.settle)
    assert seen == read(loader(directory, tmp_path)) and ended()
    first = 2 * WINDOW_CHUNKS
    assert len(slow.by) > 2 * first and set(slow.waited_for()) <= set(list(slow.by)[:first])


def test_a_storage_that_is_gone_is_told_by_the_reader(directory, tmp_path, monkeypatch):
    run = loader(f"local:{directory}", tmp_path, attempts=3)
    begun = iter(run)
    first = next(begun)["tokens"].tolist()
    Slow(0, monkeypatch, fails=lambda asked: True)
    monkeypatch.setattr("shear_lit.data.serving.remote.wait_before", lambda attempt: 0.01)
    with pytest.raises(RemoteError, match=r"could not be fetched in 3 attempts: TimeoutError: no answer"):
        read(begun)
    assert first == read(loader(directory, tmp_path))[0] and ended()


def test_what_is_not_there_or_damaged_is_not_asked_for_again_and_again(directory, tmp_path, monkeypatch):
    """The chunk that is read last is damaged in the storage: the rest of the run is not held up by it."""
    expected = read(loader(directory, tmp_path))
    order = [(int(row[0]), chunk_of(int(row[1]))) for batch in expected for row in batch]
    last = list(dict.fromkeys(order))[-1]
    path = Path(directory) / "ab"[last[0]] / "prune" / f"chunk-0-{last[1]}.bin"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    slow, seen = Slow(0, monkeypatch), []
    monkeypatch.setattr(prefetch_module, "wait_before", lambda attempt: 0)
    monkeypatch.setattr("shear_lit.data.serving.remote.wait_before", lambda attempt: 0)
    with pytest.raises(
        RemoteError, match=rf"{path.name} could not be fetched in 4 attempts: .*content changed"
    ):
        for batch in loader(f"local:{directory}", tmp_path):
            time.sleep(0.02)
            seen.append(batch["tokens"].tolist())
    assert seen == expected[: len(seen)] and len(seen) > 20
    threads = slow.by[f"{'ab'[last[0]]}/prune/{path.name}"]
    assert threads.count("MainThread") == 4 and len(threads) <= 4 + 4  # and once for each change of a window


def test_room_for_little_more_than_one_window_is_enough(directory, tmp_path):
    """What is fetched ahead takes no room of what is read: no chunk of a present window is fetched again."""
    size = (Path(directory) / "a" / "prune" / "chunk-0-0.bin").stat().st_size
    bound = (2 * WINDOW_CHUNKS + 2) * size
    seen = read(loader(f"local:{directory}", tmp_path, cache_bytes=bound))
    assert seen == read(loader(directory, tmp_path))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.bin")) <= bound


def test_chunks_that_are_kept_make_no_room(tmp_path):
    cache = ChunkCache(tmp_path, 3 * SIZE)
    kept = {record(number).sha256 for number in (1, 3)}
    for number in (1, 2, 3):
        os.close(cache.open(record(number), download(number)))
    os.close(cache.open(record(4), download(4), lambda: kept | {record(4).sha256}))
    assert held(tmp_path) == names(1, 3, 4)
    with pytest.raises(DataError, match="does not fit"):
        cache.open(record(5), download(5), lambda: kept | {record(4).sha256, record(5).sha256})
    assert held(tmp_path) == names(1, 3, 4) and not list(tmp_path.glob("*.partial"))
    with pytest.raises(PassedByError):  # it was read while the thread came to it
        cache.open(record(7), lambda path: pytest.fail("fetched"), lambda: kept)
    assert held(tmp_path) == names(1, 3, 4)
    assert not cache.touch(record(5)) and cache.touch(record(1))
    os.close(cache.open(record(6), download(6)))
    assert held(tmp_path) == names(1, 4, 6)
    descriptor = cache.open(record(1), download(1))
    assert os.pread(descriptor, SIZE, 0) == content(1)
    os.close(descriptor)


def test_what_is_kept_is_asked_for_when_room_is_made(directory, tmp_path, monkeypatch):
    """A chunk that a thread took up in an earlier window, and comes to late, removes none of the present one."""
    asked, stale = [], threading.Event()

    def bring(folder, file, kept):
        asked.append((kept, kept()))
        stale.wait(5)

    store = SequenceStore(
        f"local:{directory}", "prune", remote=RemoteSettings(cache_directory=str(tmp_path / "cache"))
    )
    monkeypatch.setattr(store.chunks, "bring", bring)
    schedule = MixtureSchedule(store.chunk_sizes, global_batch=8, seed=5)
    state = schedule.start(WEIGHTS)
    with Prefetch(store, schedule, steps=24, documents_apart=False) as prefetch:
        prefetch.look(state)
        while not asked:
            time.sleep(0.01)
        for _ in range(8):  # into the next window of each domain
            state = schedule.next_batch(state)[1]
        prefetch.look(state)
        kept, before = asked[0]
        assert kept() != before and len(kept() - before) > 0
        stale.set()
    assert ended()
