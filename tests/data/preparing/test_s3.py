"""Text in S3 is prepared as that of a directory is, and data that is written to S3 is that of a directory."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing import prepare as prepare_module
from shear_lit.data.preparing import sections as sections_module
from shear_lit.data.preparing.prepare import prepare, prepare_stage
from shear_lit.data.preparing.settings import SplitTokens
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.storage import attempts, s3
from tests.data.preparing.corpora import UNIT, in_parts, lines_of, texts, write_corpus
from tests.data.serving.storage import BUCKET
from tests.trees import tree

NUMBERS = count()
KEYS = (
    "tokenizer",
    "output",
    "work",
    "sequence_length",
    "unit_bytes",
    "chunk_bytes",
    "workers",
    "max_rejected_fraction",
)
LONG = pytest.mark.skipif(os.environ.get("SHEAR_LIT_CORPUS") != "all", reason="make corpus runs it")


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
    domains = write_corpus(tmp_path / "corpus", 30)
    small = {"unit_bytes": UNIT, "chunk_bytes": 16 * 2 * 200, "workers": 1, "max_rejected_fraction": 0.1}
    return settings(domains, tokens=SplitTokens(validation=100), **small)


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
    pieces = -(-Path(options.domains["web"][0]).stat().st_size // UNIT)
    assert list(server.fetched(".jsonl").values()) == [pieces + 1]  # and the beginning, before the work
    assert max(server.fetched("").values()) == pieces + 1


@LONG
def test_parts_read_ranges_of_objects(server, options, tmp_path):
    there = stored(options, server.upload(tmp_path / "corpus", f"text-{next(NUMBERS)}"))
    prepare(options)
    parts = replace(there, output=str(tmp_path / "there"))
    assert in_parts(parts, 3).fingerprint == read_manifest(options.output).fingerprint


@LONG
def test_files_are_added_to_data_in_s3(server, options, away, tmp_path):
    first = {"web": options.domains["web"]}
    for one in (options, away):
        prepare(replace(one, domains=first))
        prepare(one)
    assert content(server, away, tmp_path) == tree(options.output)
    sent = len(server.writes)
    assert in_parts(away, 2).runs == 2  # nothing is new any more
    assert len(server.writes) == sent and list((tmp_path / "work").iterdir()) == []


@LONG
def test_errors_slow_answers_and_cut_connections_change_nothing(server, options, away, tmp_path):
    away = stored(away, server.upload(tmp_path / "corpus", f"text-{next(NUMBERS)}"))
    server.faults = ["500", "", "cut", "", "", "slow", ""] * 40
    manifest = prepare(away)
    server.faults = []
    assert manifest.fingerprint == prepare(options).fingerprint and len(server.waits) > 10
    assert {f for f in tree(options.output) if f.endswith(".bin")} <= content(server, away, tmp_path).keys()


def test_an_outage_ends_the_run_in_one_line_and_the_next_one_goes_on(
    server, options, away, tmp_path, monkeypatch
):
    monkeypatch.setattr("shear_lit.data.preparing.upload.put", outage := Outage(server, after=5))
    said = refused(away)
    assert said.startswith(f"output='{away.output}': ClientError: ") and "in 8 attempts" in said
    assert server.waits[-7:] == [1, 2, 4, 8, 16, 32, 60]
    server.failing, server.faults = 0, []
    half = content(server, away, tmp_path)
    assert len(half) == 5 and "manifest.json" not in half
    outage.after = 1000
    prepare(away)
    prepare(options)
    assert content(server, away, tmp_path) == tree(options.output)
    assert len(outage.sent) == len(set(outage.sent))  # nothing was sent twice


class Outage:
    """Sends objects, of which after some the storage fails."""

    def __init__(self, server, after):
        self.server, self.after, self.put, self.sent = server, after, s3.put, []

    def __call__(self, path, address, sha256):
        if len(self.sent) == self.after:
            self.server.faults = ["500"] * 8
        self.put(path, address, sha256)
        self.sent.append(address)


@LONG
@pytest.mark.parametrize("moment", [0, 4, "last"])
def test_a_run_that_is_killed_while_it_sends_leaves_the_old_data_or_the_new(
    server, options, away, tmp_path, monkeypatch, moment
):
    first = {"web": options.domains["web"]}
    for one in (options, away):
        prepare(replace(one, domains=first))
    before = content(server, away, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shear_lit.data.preparing.upload.put", Killed(moment))
        for stage in ("tokenise", "select", "pack"):
            prepare_stage(away, stage)
        with pytest.raises(KeyboardInterrupt):
            prepare_stage(away, "commit")
    during = content(server, away, tmp_path)
    kept = {name for name in before if not name.endswith(("index.json", "README.md"))}
    assert all(during[name] == before[name] for name in kept if moment != "last" or name != "manifest.json")
    prepare_stage(away, "commit")
    prepare(options)
    assert content(server, away, tmp_path) == tree(options.output)
    assert list((tmp_path / "work").iterdir()) == []


class Killed:
    """Sends so many objects; the last is the manifest."""

    def __init__(self, moment):
        self.put, self.left = s3.put, moment

    def __call__(self, path, address, sha256):
        if self.left == 0:
            raise KeyboardInterrupt
        self.put(path, address, sha256)
        if self.left == "last" and path.name == "manifest.json":
            raise KeyboardInterrupt
        self.left = self.left if self.left == "last" else self.left - 1


def test_text_that_changes_while_it_is_read_is_told(server, options, tmp_path, monkeypatch):
    name = f"text-{next(NUMBERS)}"
    there = stored(options, server.upload(tmp_path / "corpus", name))
    real = prepare_module.check_text_field

    def changes(*arguments):
        real(*arguments)
        (tmp_path / "corpus" / "large.jsonl").write_text(lines_of(texts(70)))
        server.upload(tmp_path / "corpus", name)

    monkeypatch.setattr(prepare_module, "check_text_field", changes)
    said = refused(there)
    assert said.startswith(
        f"domains.web='s3://{BUCKET}/{name}/large.jsonl': it has changed since it was listed"
    )


def test_what_arrives_damaged_is_fetched_again(server, options, tmp_path):
    there = stored(options, server.upload(tmp_path / "corpus", f"text-{next(NUMBERS)}"))
    (tmp_path / "scratch").mkdir()
    server.flipped = 1
    s3.fetch(there.domains["web"][1], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == Path(options.domains["web"][1]).read_bytes()
    assert server.waits == [1]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("s3://absent/a.jsonl", "there is no such bucket (NoSuchBucket)"),
        ("s3://B_/a.jsonl", "there is no such bucket"),
        ("s3://", "that is no name of a bucket"),
        ("s3://shelf/none/*.jsonl", "no object matches it"),
        ("s3://shelf/kinds/tokens.bin", "is of no kind that is read from S3"),
        ("s3://shelf/kinds/", "is of no kind that is read from S3"),
    ],
)
def test_text_that_cannot_be_found_is_told_in_one_line(server, options, tmp_path, pattern, said):
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "tokens.bin").write_bytes(b"")
    server.upload(tmp_path / "kinds", "kinds")
    found = refused(replace(options, domains={"web": pattern}))
    assert found.startswith("domains.web='s3://") and said in found
    assert not Path(options.output + ".partial").exists()


def test_credentials_that_are_missing_or_refused_are_told(server, away, monkeypatch):
    server.faults = ["403"] * 2
    assert "access is denied" in refused(away)
    server.faults = []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/absent")
    s3._client_of.cache_clear()
    said = refused(away)
    s3._client_of.cache_clear()
    assert said.startswith("output='s3://") and "no credentials were found" in said


def test_an_output_that_cannot_be_is_told_in_one_line(server, options, away, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").write_text("x")
    foreign = server.upload(tmp_path / "some", f"foreign-{next(NUMBERS)}")
    for changes, said in (
        ({"work": ""}, "Name one with --work DIR"),
        ({"output": "s3://shelf"}, "s3://BUCKET/PREFIX is expected"),
        ({"output": "gs://shelf/a"}, "an address that begins with s3:// is written"),
        ({"output": str(tmp_path / "out")}, "works beside it. Leave it out"),
        ({"output": foreign}, "holds objects already, and no prepared data"),
        ({"output": "s3://absent/a"}, "there is no such bucket"),
    ):
        assert said in refused(replace(away, **changes))
    assert not (tmp_path / "work").exists()


@LONG
def test_all_kinds_of_objects_are_read_by_several_processes(server, options, tmp_path):
    corpus, rows = tmp_path / "corpus", texts(80, seed=5)
    parquet.write_table(pa.table({"text": rows}), corpus / "rows.parquet", row_group_size=20)
    np.save(corpus / "tokens.npy", np.tile(np.array([5, 6, 7, 8, 9, 1], dtype="uint16"), 500))
    (corpus / "cells.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts(80, seed=6)))
    (corpus / "lines.json").write_text(lines_of(texts(80, seed=7)))
    more = [str(corpus / name) for name in ("rows.parquet", "tokens.npy", "cells.csv", "lines.json")]
    options = replace(options, domains=options.domains | {"more": more}, workers=2)
    there = stored(options, server.upload(corpus, f"text-{next(NUMBERS)}"))
    there = replace(there, output=str(tmp_path / "there"))
    assert prepare(there).fingerprint == prepare(options).fingerprint
    assert not Path(there.output + ".partial").exists()


@LONG
def test_a_large_file_is_sent_in_parts_of_which_one_fails(server, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "_PART_BYTES", 5 << 20)
    (tmp_path / "file").write_bytes(np.random.default_rng(0).bytes(12 << 20))
    server.faults, server.writes[:] = ["", "", "500"], []
    s3.put(tmp_path / "file", address := f"s3://{BUCKET}/large", sha256="0" * 64)
    assert len(server.writes) > 6 and server.waits == [1] and s3.stored_sha256(address) == "0" * 64
    s3.fetch(address, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


@LONG
def test_a_process_that_is_killed_while_it_sends_is_taken_up(server, options, away, tmp_path):
    """A process of its own, by SIGKILL, at several moments."""
    prepare(options)
    flags = [f"--domains.{name}={json.dumps(paths)}" for name, paths in options.domains.items()]
    flags += [f"--{key}={getattr(away, key)}" for key in KEYS] + ["--tokens.validation=100"]
    flags += ["--shares.prune=0.4", "--shares.pretrain=0.4", "--shares.validation=0.2"]
    for moment in (2, 11, 20):
        server.writes.clear()
        process = subprocess.Popen([sys.executable, "-m", "shear_lit", "prepare", *flags])
        while len(server.writes) < moment and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.wait()
        there = content(server, away, tmp_path)
        assert "manifest.json" not in there or there == tree(options.output)
        assert len(there) >= moment - 1
    subprocess.run([sys.executable, "-m", "shear_lit", "prepare", *flags], check=True)
    assert content(server, away, tmp_path) == tree(options.output)
