"""Text in S3 is prepared as that of a directory is, and data that is written to S3 is that of a directory."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing import sections as sections_module
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.settings import SplitTokens
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.storage import attempts
from tests.data.preparing.corpora import UNIT, in_parts, write_corpus
from tests.data.serving.storage import BUCKET
from tests.trees import tree

NUMBERS = count()


@pytest.fixture
def server(storage, monkeypatch):
    """A storage that works, and whose waits between attempts are noted and not waited for."""
    storage.waits = []
    monkeypatch.setattr(attempts, "time", SimpleNamespace(sleep=storage.waits.append))
    yield storage
    storage.faults, storage.failing = [], 0


@pytest.fixture
def options(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(sections_module, "SECTION_PIECES", 3)
    domains = write_corpus(tmp_path / "corpus", 60)
    small = {"unit_bytes": UNIT, "chunk_bytes": 16 * 2 * 40, "workers": 1, "max_rejected_fraction": 0.1}
    return settings(domains, tokens=SplitTokens(validation=300), **small)


@pytest.fixture
def away(options, tmp_path):
    """The same settings, with an output in S3."""
    return replace(options, output=f"s3://{BUCKET}/out-{next(NUMBERS)}", work=str(tmp_path / "work"))


def stored(options, address):
    """The same settings, with inputs below an address."""
    domains = {
        name: [f"{address}/{Path(path).name}" for path in paths] for name, paths in options.domains.items()
    }
    return replace(options, domains=domains)


def refused(options):
    with pytest.raises(DataError) as caught:
        prepare(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(server, options, tmp_path):
    return tree(server.download(options.output, tmp_path / f"copy-{next(NUMBERS)}"))


def test_output_in_s3_is_that_of_a_directory_and_is_read_by_training(server, options, away, tmp_path):
    prepare(options)
    prepare(away)
    assert content(server, away, tmp_path) == tree(options.output)
    assert list((tmp_path / "work").iterdir()) == []
    remote = RemoteSettings(cache_directory=str(tmp_path / "cache"))
    for split in ("prune", "validation"):
        here = SequenceStore(options.output, split)
        there = SequenceStore(away.output, split, remote=remote)
        for domain in range(2):
            assert here.sequences(domain) == there.sequences(domain) > 0
            for n in range(here.sequences(domain)):
                assert here[domain, n]["tokens"].equal(there[domain, n]["tokens"])


def test_text_in_s3_gives_the_chunks_of_the_files(server, options, tmp_path):
    address = server.upload(tmp_path / "corpus", f"text-{next(NUMBERS)}")
    prepare(options)
    there = replace(stored(options, address), output=str(tmp_path / "there"))
    server.asked.clear()
    manifest = prepare(there)
    assert manifest.fingerprint == read_manifest(options.output).fingerprint
    first, second = tree(options.output), tree(there.output)
    assert {name for name in first if first[name] != second[name]} == {
        "README.md",
        ".ledger/1/inputs.jsonl",
        "manifest.json",
    }  # which name the inputs
    assert not Path(there.output + ".partial").exists()


def test_parts_read_ranges_of_objects(server, options, tmp_path):
    there = stored(options, server.upload(tmp_path / "corpus", f"text-{next(NUMBERS)}"))
    prepare(options)
    parts = replace(there, output=str(tmp_path / "there"))
    assert in_parts(parts, 3).fingerprint == read_manifest(options.output).fingerprint
