"""Data in remote storage is the data in the directory: whatever the cache removes and the network does."""

import json
import logging
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from filelock import FileLock
from litdata.streaming import downloader as litdata_downloader

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving import remote as remote_module
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.remote import RemoteError, RemoteSettings, is_remote, open_chunks, read_prepared
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.storage import s3
from tests.data.conftest import LENGTH, write_prepared

CHUNK = 5 * LENGTH * 2 + 4 * (5 + 2)  # of five sequences, with litdata's head


BUCKET = "shelf"


@pytest.fixture
def server(storage, monkeypatch):
    """A storage that works, and whose waits between attempts are noted and not waited for."""
    storage.failing, storage.flipped, storage.waits = 0, 0, []
    storage.asked.clear()
    monkeypatch.setattr(remote_module, "time", SimpleNamespace(sleep=storage.waits.append))
    yield storage
    storage.failing = storage.flipped = 0


@pytest.fixture(scope="module")
def address(storage, prepared):
    return storage.upload(prepared, "prepared")


def settings(tmp_path, **changes):
    return RemoteSettings(**({"cache_directory": str(tmp_path / "cache"), "attempts": 4} | changes))


def everything(store):
    return torch.cat(
        [
            store[domain, sequence]["tokens"]
            for domain in range(len(store.domains))
            for sequence in range(store.sequences(domain))
        ]
    )


def cached(tmp_path):
    """Bytes of the chunks in the cache, while nobody may remove one."""
    (tmp_path / "cache").mkdir(exist_ok=True)
    with FileLock(tmp_path / "cache" / "room.lock"):
        return sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.bin"))


def test_remote_data_is_the_local_data(server, address, prepared, tmp_path):
    assert is_remote(address) and not is_remote(prepared)
    manifest = read_prepared(address, settings(tmp_path))
    assert manifest == read_manifest(prepared)
    for split in ("prune", "validation"):
        store = SequenceStore(address, split, manifest, settings(tmp_path))
        torch.testing.assert_close(
            everything(store), everything(SequenceStore(prepared, split)), rtol=0, atol=0
        )
    assert set(server.fetched().values()) == {1}
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix not in (".bin", ".lock")]


def test_bounds_of_documents_are_those_of_the_local_data(server, address, prepared, tmp_path):
    """Fetched only where they are asked for, and once: those of 5, of 3 and of 2 sequences, each a document."""
    store, local = (
        SequenceStore(address, "prune", remote=settings(tmp_path)),
        SequenceStore(prepared, "prune"),
    )
    everything(store)
    assert not server.fetched(".documents")
    keys = [(domain, n) for domain in range(3) for n in range(local.sequences(domain))]
    found, expected = (one.read(keys, documents_apart=True) for one in (store, local))
    assert all(torch.equal(found[name], expected[name]) for name in ("tokens", "positions"))
    assert set(server.fetched(".documents").values()) == {1} and len(server.fetched(".documents")) == 3


def test_other_content_is_found(address, server, tmp_path):
    """The comparison above fails where it should: the domains' sequences all differ."""
    store = SequenceStore(address, "prune", remote=settings(tmp_path))
    assert not torch.equal(store[0, 1]["tokens"], store[1, 1]["tokens"])
    assert store[1, 1]["tokens"][0].tolist() == [1, 1, 0, 0]


def test_a_later_run_reads_from_the_cache(server, address, tmp_path):
    everything(SequenceStore(address, "prune", remote=settings(tmp_path)))
    server.asked.clear()
    everything(SequenceStore(address, "prune", remote=settings(tmp_path)))
    assert server.fetched() == {}


def test_cache_that_cannot_hold_a_window_of_each_domain_is_refused(address, tmp_path):
    """Chunks of prune: 3 of a, 8 of b, 5 of c; two of them are short."""
    needed = 14 * CHUNK + (CHUNK - 2 * (2 * LENGTH + 4)) + (CHUNK - 3 * (2 * LENGTH + 4)) + CHUNK
    SequenceStore(address, "prune", remote=settings(tmp_path, cache_bytes=needed))
    with pytest.raises(
        DataError, match=rf"remote\.cache_bytes={needed - 1}.*Use cache_bytes={needed} or more"
    ):
        SequenceStore(address, "prune", remote=settings(tmp_path, cache_bytes=needed - 1))


def test_domain_without_chunks_needs_no_room(address, tmp_path):
    chunks = read_prepared(address, settings(tmp_path)).domains["a"].splits["prune"].chunks
    open_chunks(address, settings(tmp_path)).check_room([chunks, []])


def test_cache_stays_within_its_bound_and_no_read_breaks(server, tmp_path):
    """Twelve chunks, of which nine fit, read in two orders."""
    directory = write_prepared(tmp_path / "data", {"a": 60}, splits=("prune",))
    address = server.upload(directory, "bounded")
    bound = 9 * CHUNK
    store = SequenceStore(address, "prune", remote=settings(tmp_path, cache_bytes=bound))
    most = 0
    for step in (1, 7):
        for place in range(60):
            sequence = place * step % 60
            assert store[0, sequence]["tokens"][0].tolist() == [0, sequence, 0, 0]
            most = max(most, cached(tmp_path))
    assert most == bound
    assert len(server.fetched()) == 12 and sum(server.fetched().values()) > 24


def test_a_run_downloads_each_chunk_once_an_epoch_though_not_all_fit(server, tmp_path):
    """Shuffled inside windows of eight chunks, a bound of two windows is enough."""
    directory = write_prepared(tmp_path / "data", {"a": 120}, splits=("prune",))
    address = server.upload(directory, "windows")
    store = SequenceStore(address, "prune", remote=settings(tmp_path, cache_bytes=16 * CHUNK))
    schedule = MixtureSchedule(store.chunk_sizes, global_batch=8, seed=1)
    run = MixtureLoader(store, schedule, [1.0], steps=15, update_every_steps=5, micro_batch=4)
    assert sorted(n for batch in run for n in batch["tokens"][:, 1].tolist()) == list(range(120))
    assert len(server.fetched()) == 24 and set(server.fetched().values()) == {1}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_a_cache_of_half_the_data_and_give_the_order_of_the_directory(
    server, tmp_path, workers
):
    """Twenty chunks and twelve, of which seventeen fit; the run reads all of them more than once."""
    directory = write_prepared(tmp_path / "data", {"a": 100, "b": 60}, splits=("prune",))
    bound = 17 * CHUNK

    def run(place, workers, **how):
        store = SequenceStore(place, "prune", **how)
        schedule = MixtureSchedule(store.chunk_sizes, global_batch=16, seed=5)
        loader = MixtureLoader(
            store, schedule, [0.6, 0.4], steps=12, update_every_steps=4, micro_batch=4, workers=workers
        )
        most, seen = 0, []
        for batch in loader:
            seen.append(batch["tokens"].tolist())
            most = max(most, cached(tmp_path))
        return seen, most

    expected, _ = run(directory, 0)
    seen, most = run(
        server.upload(directory, "shared"), workers, remote=settings(tmp_path, cache_bytes=bound)
    )
    assert seen == expected and bound - CHUNK < most <= bound
    assert len(server.fetched()) == 32 and sum(server.fetched().values()) > 32


def test_store_travels_to_a_spawned_worker(address, tmp_path):
    store = SequenceStore(address, "prune", remote=settings(tmp_path))
    first = store[2, 7]["tokens"]
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 (what torch does with spawned workers)
    assert torch.equal(again[2, 7]["tokens"], first)


def test_faults_of_the_network_are_retried_and_said_once_a_minute(
    server, address, tmp_path, caplog, monkeypatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    manifest = read_prepared(address, settings(tmp_path))
    store = SequenceStore(address, "prune", manifest, settings(tmp_path))
    server.failing = 3
    with caplog.at_level(logging.WARNING):
        assert store[1, 7]["tokens"][0].tolist() == [1, 7, 0, 0]
    said = [record.getMessage() for record in caplog.records if "attempt" in record.getMessage()]
    assert server.waits == [1, 2, 4]
    assert len(said) == 1 and f"{address}/b/prune/chunk-0-1.bin: attempt 1 of 4 failed" in said[0]


def test_attempts_outlast_an_outage_of_ten_minutes(server, address, tmp_path):
    manifest = read_prepared(address, settings(tmp_path))
    store = SequenceStore(address, "prune", manifest, settings(tmp_path, attempts=RemoteSettings().attempts))
    server.failing = RemoteSettings().attempts - 1
    assert store[1, 7]["tokens"][0].tolist() == [1, 7, 0, 0]
    assert sum(server.waits) > 600


def test_a_storage_that_never_recovers_is_reported_with_the_object(server, address, tmp_path):
    manifest = read_prepared(address, settings(tmp_path))
    store = SequenceStore(address, "prune", manifest, settings(tmp_path))
    server.failing = 10**9
    with pytest.raises(
        RemoteError, match=rf"{address}/c/prune/chunk-0-2\.bin .* in 4 attempts.*resume the run"
    ):
        store[2, 11]
    with pytest.raises(RemoteError, match=r"manifest\.json .* in 4 attempts"):
        read_prepared(address, settings(tmp_path))
    assert not list((tmp_path / "cache").glob("*.partial*"))
    server.failing = 0
    assert store[2, 11]["tokens"][0].tolist() == [2, 11, 0, 0]  # nothing was left broken


def test_a_missing_object_is_not_asked_for_again(server, address, tmp_path):
    with pytest.raises(RemoteError, match=r"nowhere/manifest\.json .* in 1 attempt:.*Check address"):
        read_prepared(f"s3://{BUCKET}/nowhere", settings(tmp_path))
    assert server.waits == []


@pytest.mark.parametrize("flips", [1, 10**9])
def test_changed_bytes_are_downloaded_again_and_never_read(server, address, tmp_path, flips):
    manifest = read_prepared(address, settings(tmp_path))
    store = SequenceStore(address, "prune", manifest, settings(tmp_path))
    server.flipped = flips
    if flips == 1:
        assert store[0, 3]["tokens"][0].tolist() == [0, 3, 0, 0]
        assert len(server.waits) == 1
    else:
        with pytest.raises(RemoteError, match=r"a/prune/chunk-0-0\.bin could not be fetched in 4 attempts"):
            store[0, 3]


@pytest.fixture
def without_checksums(monkeypatch):
    """Clients that look at no checksum of an answer, as older storage gives none."""
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    s3._client_of.cache_clear()
    yield
    s3._client_of.cache_clear()


def test_a_manifest_that_changed_on_its_way_is_downloaded_again(
    server, address, prepared, without_checksums, tmp_path
):
    """No hash of it is known here: what arrived is held against the MD5 that S3 gives."""
    server.flipped = 1
    assert read_prepared(address, settings(tmp_path)) == read_manifest(prepared)
    assert len(server.waits) == 1


def test_damage_in_the_cache_is_downloaded_again(server, address, tmp_path):
    everything(SequenceStore(address, "prune", remote=settings(tmp_path)))
    for number, path in enumerate(sorted((tmp_path / "cache").glob("*.bin"))):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content if number % 2 else content[:-3])
    server.asked.clear()
    store = SequenceStore(address, "prune", remote=settings(tmp_path))
    assert everything(store)[:13, 1].tolist() == list(range(13))
    assert len(server.fetched()) == 16


def test_manifest_of_another_place_is_refused_as_damage(server, prepared, tmp_path):
    """A manifest whose hash could lead out of the cache, and one that is cut."""
    copied = shutil.copytree(prepared, tmp_path / "data")
    content = json.loads((copied / "manifest.json").read_text())
    content["domains"]["a"]["splits"]["prune"]["chunks"][0]["sha256"] = "../../x"
    (copied / "manifest.json").write_text(json.dumps(content))
    address = server.upload(copied, "changed")
    with pytest.raises(
        DataError, match=r"changed/manifest\.json cannot .*a/prune lists a file with .*sha256='\.\./\.\./x'"
    ):
        SequenceStore(address, "prune", remote=settings(tmp_path))
    (copied / "manifest.json").write_text(json.dumps(content)[:-5])
    with pytest.raises(DataError, match=r"changed/manifest\.json cannot be read as a manifest"):
        read_prepared(server.upload(copied, "changed"), settings(tmp_path))


def test_datamodule_takes_an_address(address, prepared, tmp_path):
    mixture = MixtureSettings(
        proportions={"a": 0.25, "b": 0.5, "c": 0.25}, rule="static", update_every_steps=2
    )

    def batches(directory):
        data = DomainData(
            directory,
            mixture,
            global_batch=8,
            micro_batch=2,
            validation_sequences=6,
            remote=settings(tmp_path),
        )
        data.check(world_size=1, max_steps=4)
        both = [*data.training_loader(steps=4), *data.validation_loader()]
        return [batch["tokens"].tolist() for batch in both]

    assert batches(address) == batches(str(prepared))


def test_datamodule_refuses_a_small_cache_before_anything_is_read(server, address, tmp_path):
    mixture = MixtureSettings(proportions={"a": 0.25, "b": 0.5, "c": 0.25}, rule="static")
    data = DomainData(address, mixture, remote=settings(tmp_path, cache_bytes=CHUNK))
    with pytest.raises(DataError, match=r"remote\.cache_bytes="):
        data.check_data()
    assert server.fetched() == {}


def test_mounted_directory_is_read_through_the_cache(prepared, tmp_path):
    address = f"local:{prepared}"
    store = SequenceStore(address, "prune", remote=settings(tmp_path))
    assert torch.equal(everything(store), everything(SequenceStore(prepared, "prune")))
    assert cached(tmp_path) > 0
    with pytest.raises(RemoteError, match="in 1 attempt"):
        read_prepared(f"local:{prepared}/nowhere", settings(tmp_path))


@pytest.mark.parametrize(
    "address", ["azure://box/data", "https://example.org/data", "hf://models/x", "S3://shelf"]
)
def test_storage_that_is_not_read_from_is_refused(address):
    with pytest.raises(DataError, match=r"begins with s3://, gs://, hf://datasets/, local:"):
        is_remote(address)


@pytest.mark.parametrize("changes", [{"cache_bytes": 0}, {"attempts": 0}])
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(DataError, match="must both be at least 1"):
        RemoteSettings(**changes)


def test_data_on_the_hub_is_asked_for_by_repository_and_path(prepared, tmp_path, monkeypatch):
    """The hub's own client stands in the network's place here."""
    asked = set()

    def download(repository, path, *, cache_dir, repo_type, revision, **options):
        asked.add((repository, repo_type, revision))
        copy = Path(cache_dir) / "file"
        return shutil.copy(prepared / path.removeprefix("packed/"), copy)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    store = SequenceStore("hf://datasets/team/corpus@v2/packed", "prune", remote=settings(tmp_path))
    assert torch.equal(everything(store), everything(SequenceStore(prepared, "prune")))
    assert asked == {("team/corpus", "dataset", "v2")}


def test_data_in_googles_storage_is_asked_for_by_bucket_and_name(prepared, tmp_path, monkeypatch):
    """A stand-in for Google's client, which is not among the dependencies."""

    class Client:
        def bucket(self, name):
            assert name == "shelf"
            return self

        def blob(self, key):
            return SimpleNamespace(
                download_to_file=lambda file: file.write(
                    (prepared / key.removeprefix("packed/")).read_bytes()
                )
            )

    google = SimpleNamespace(storage=SimpleNamespace(Client=Client))
    monkeypatch.setattr(litdata_downloader, "_GOOGLE_STORAGE_AVAILABLE", True)
    monkeypatch.setitem(sys.modules, "google.cloud", google)
    store = SequenceStore("gs://shelf/packed", "prune", remote=settings(tmp_path))
    assert torch.equal(everything(store), everything(SequenceStore(prepared, "prune")))


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(litdata_downloader, "_GOOGLE_STORAGE_AVAILABLE", False)
    with pytest.raises(RemoteError, match=r"gs://other/manifest\.json .* in 1 attempt: ModuleNotFoundError"):
        read_prepared("gs://other", settings(tmp_path))
