"""The commands take data in remote storage wherever they take a directory, and do the same with it."""

import csv
import json
import shutil
from dataclasses import replace

import pytest

from shear_lit import cli
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.reference import measure
from shear_lit.data.order.references import read_references
from shear_lit.data.prepared.manifest import write_manifest
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.remote import RemoteError, RemoteSettings


@pytest.fixture(scope="module")
def address(storage, toy):
    return storage.upload(toy.data, "toy")


_OF_THE_MACHINE = ("speed/", "memory/", "run/device_seconds")


@pytest.fixture
def remote(tmp_path):
    return RemoteSettings(cache_directory=str(tmp_path / "cache"), attempts=1)


def numbers_of(run):
    """Everything a run logged, but for what depends on the machine."""
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if not row["name"].startswith(_OF_THE_MACHINE)]


@pytest.fixture(scope="module")
def apart(storage, toy, tmp_path_factory):
    """The first domain in storage, the others in a directory."""
    root, manifest = tmp_path_factory.mktemp("apart"), read_manifest(toy.data)
    first, *others = manifest.domains
    for place, names in ((root / "one", [first]), (root / "others", others)):
        for name in names:
            shutil.copytree(toy.data / name, place / name)
        write_manifest(place, replace(manifest, domains={name: manifest.domains[name] for name in names}))
    return [storage.upload(root / "one", "one"), str(root / "others")]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fit_on_remote_data_is_fit_on_the_directory(toy, address, apart, tmp_path):
    """And so it is on one domain in storage and the others in a directory."""
    short = ["--trainer.max_steps=4", "--data.mixture.update_every_steps=2", "--trainer.log_every_n_steps=1"]
    short += [
        "--model.pruning.sparsity_warmup_steps=2",
        f"--data.remote.cache_directory={tmp_path / 'cache'}",
    ]
    for name, directory in (("local", toy.data), ("remote", address), ("apart", json.dumps(apart))):
        cli.main([*toy.arguments("prune", tmp_path / name), f"--data.directory={directory}", *short])
    assert len(numbers_of(tmp_path / "local")) >= 40
    assert numbers_of(tmp_path / "remote") == numbers_of(tmp_path / "local") == numbers_of(tmp_path / "apart")
    assert list((tmp_path / "cache").glob("*.bin"))


def test_losses_and_references_of_remote_data_are_those_of_the_directory(toy, address, remote, tmp_path):
    model = str(toy.source())
    local = evaluate(model, str(toy.data), sequences_per_domain=8)
    assert evaluate(model, address, sequences_per_domain=8, remote=remote).losses == local.losses
    measure(model, address, str(tmp_path / "references.yaml"), sequences_per_domain=8, remote=remote)
    assert read_references(tmp_path / "references.yaml").losses == dict(local.losses)


def test_data_is_shown_and_verified_where_it_lies(toy, address, tmp_path, capfd):
    flags = [f"--remote.cache_directory={tmp_path / 'cache'}"]
    cli.main(["data", address, "--sequences", "1", *flags])
    shown = capfd.readouterr().out
    cli.main(["data", str(toy.data), "--sequences", "1"])
    assert shown == capfd.readouterr().out
    cli.main(["prepare", "--check", address])
    assert f"{address}: whole" in capfd.readouterr().out


def test_address_without_data_is_refused_before_weights_are_read(toy, address, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        cli.main([*toy.arguments("prune", tmp_path / "run"), f"--data.directory={address}s"])
    assert left.value.code == 1
    said = capfd.readouterr().err
    assert f": {address}s/manifest.json could not be fetched in 1 attempt" in said
    with pytest.raises(RemoteError):
        evaluate(str(tmp_path / "no-model"), f"{address}s")
