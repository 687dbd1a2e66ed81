"""Several prepared directories read as one, beside the same domains in one directory."""

import shutil
from dataclasses import replace

import pytest
import torch

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.prepared.manifest import content_fingerprint, write_manifest
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.directories import read_data
from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from tests.data.conftest import write_prepared

SIZES = {"a": 13, "b": 40, "c": 22}
DEALS = ((("a", "c"), ("b",)), (("c",), ("b",), ("a",)), (("b", "c"), ("a",)))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """All domains in one directory, with the fingerprint of what it holds."""
    directory = write_prepared(tmp_path_factory.mktemp("together") / "data", SIZES)
    manifest = read_manifest(directory)
    content = (manifest.tokenizer, manifest.sequence_length, manifest.token_type, manifest.domains)
    write_manifest(directory, replace(manifest, fingerprint=content_fingerprint(*content)))
    return directory


def dealt(together, root, deal):
    """Some of the domains in each of several directories, byte for byte."""
    manifest, places = read_manifest(together), []
    for number, names in enumerate(deal):
        directory = root / f"part-{number}"
        for name in names:
            shutil.copytree(together / name, directory / name)
        write_manifest(directory, replace(manifest, domains={name: manifest.domains[name] for name in names}))
        places.append(str(directory))
    return places


def module(place, remote=REMOTE, **changes):
    mixture = MixtureSettings(
        proportions={"a": 0.25, "b": 0.5, "c": 0.25},
        references={"a": 2.0, "b": 1.0, "c": 1.5},
        update_every_steps=2,
    )
    sizes = {"global_batch": 8, "micro_batch": 2, "validation_sequences": 6, "validation_micro_batch": 3}
    return DomainData(place, mixture, remote=remote, **(sizes | changes))


def read_whole(data, *, stop=None, **ranks):
    """All batches of a run whose mixture moves, and those of a validation; with ``stop``, resumed after so many."""
    batches = []
    loader = data.training_loader(steps=6, **ranks)
    for done, batch in enumerate(loader, start=1):
        batches.append((batch["tokens"], batch["domain"], batch["micro_batch"]))
        if done == stop:
            break
        if loader.at_boundary and data.update_due:
            data.update_mixture({"a": 2.5 - done / 20, "b": 1.25, "c": 1.5})
    return batches, data.state_dict()


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2]
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("deal", DEALS, ids=str)
def test_order_and_fingerprint_are_those_of_one_directory(together, tmp_path, deal):
    places = dealt(together, tmp_path, deal)
    joined = module(places)
    joined.check(world_size=1, max_steps=6)
    assert joined.domains == ("a", "b", "c")
    assert joined.manifest.fingerprint == read_manifest(together).fingerprint
    expected, _ = read_whole(module(str(together)))
    found, _ = read_whole(module(places))
    assert same(found, expected)
    for ours, theirs in zip(
        module(places).validation_loader(), module(str(together)).validation_loader(), strict=True
    ):
        assert torch.equal(ours["tokens"], theirs["tokens"]) and torch.equal(ours["domain"], theirs["domain"])


def test_run_goes_on_from_one_directory_in_several(together, tmp_path):
    expected, _ = read_whole(module(str(together)))
    begun, state = read_whole(module(str(together)), stop=7)
    other = module(dealt(together, tmp_path, DEALS[1]))
    other.load_state_dict(state)
    rest, _ = read_whole(other)
    assert same([*begun, *rest][: len(begun) + 1], expected[: len(begun) + 1])


def test_local_and_slow_directories_may_be_mixed_and_share_a_cache(together, tmp_path):
    first, *others = dealt(together, tmp_path, DEALS[1])
    places = [first, *(f"local:{place}" for place in others)]
    remote = RemoteSettings(cache_directory=str(tmp_path / "cache"), cache_bytes=1 << 20)
    expected, _ = read_whole(module(str(together)))
    found, _ = read_whole(module(places, remote))
    assert same(found, expected)
    # The windows of b and a take 544 and 180 bytes, and one more chunk 68; c lies in a directory that is read in place.
    module(places, replace(remote, cache_bytes=792)).check(world_size=1, max_steps=6)
    with pytest.raises(DataError, match="cache_bytes=792"):
        module(places, replace(remote, cache_bytes=791)).check(world_size=1, max_steps=6)


def changed(directory, **changes):
    manifest = read_manifest(directory)
    write_manifest(directory, replace(manifest, **changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"append_eos": True}, "another append_eos"),
        ({"split_special_tokens": True}, "another split_special_tokens"),
        ({"tokenizer": "other"}, "another tokenizer"),
    ],
    ids=str,
)
def test_directories_that_were_prepared_differently_are_refused(together, tmp_path, change, said):
    places = dealt(together, tmp_path, DEALS[0])
    if change.get("tokenizer"):
        change = {"tokenizer": replace(read_manifest(places[1]).tokenizer, fingerprint="e" * 64)}
    changed(tmp_path / "part-1", **change)
    with pytest.raises(DataError, match=said) as refused:
        read_data(places, REMOTE)
    assert refused.value.key == "data.directory" and places[1] in str(refused.value)


def test_domain_of_two_directories_is_refused(together, tmp_path):
    places = [*dealt(together, tmp_path, DEALS[0]), str(together)]
    with pytest.raises(DataError, match=r"domain 'a' is in .*part-0.* and in"):
        read_data(places, REMOTE)
    with pytest.raises(DataError, match="domain 'b' is in"):
        read_data(["/" + places[1], places[1]], REMOTE)


def test_empty_list_and_a_directory_that_is_not_there_are_refused(together, tmp_path):
    with pytest.raises(DataError, match="empty list"):
        read_data([], REMOTE)
    with pytest.raises(DataError, match="nowhere"):
        read_data([str(together), str(tmp_path / "nowhere")], REMOTE)
