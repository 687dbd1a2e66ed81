"""Files from elsewhere, changed in every way: what comes of them is data, or one line that says what is wrong.

`FUZZ_EDITS=200 pytest tests/data/test_hostile_files.py` tries more edits of each kind of file.
"""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.looking.inspection import described
from shear_lit.data.looking.simulation import read_history, simulate
from shear_lit.data.looking.verification import verify
from shear_lit.data.order.mixture_log import (
    MixtureChange,
    MixtureLog,
    read_mixture_log,
    write_mixture_log,
)
from shear_lit.data.order.references import References, read_references, write_references
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.ledger import ledger_of
from shear_lit.data.preparing.mds import mds_shards
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.spools import Spool, SpoolRecord, record_of_spool, write_spool
from shear_lit.data.tokens.tokenizer import load_tokenizer
from shear_lit.disk.records import record_of
from shear_lit.mistakes import Mistake
from tests.bad_inputs.edits import edited_bytes, edited_value
from tests.data.preparing.mds_folders import sample, write_mds

EDITS = int(os.environ.get("FUZZ_EDITS", "30"))
DOMAINS = ("a", "b", "c")


def edits(path, kind):
    """Write ``EDITS`` changed versions of a file in its place, one after the other."""
    whole = path.read_bytes()
    for seed in range(EDITS):
        numbers = random.Random(f"{path.name} {seed}")
        if kind is None or seed % 3 == 0:
            path.write_bytes(edited_bytes(whole, numbers))
        elif kind is yaml:
            path.write_text(yaml.safe_dump(edited_value(yaml.safe_load(whole), numbers)), encoding="utf-8")
        else:
            path.write_text(json.dumps(edited_value(json.loads(whole), numbers)), encoding="utf-8")
        yield seed
    path.write_bytes(whole)


def refused_in_one_line(read, path, kind):
    """How many of the edits were refused; each by a mistake of one line that names its key."""
    refused = 0
    read()
    for seed in edits(path, kind):
        try:
            read()
        except Mistake as mistake:
            refused += 1
            assert len(str(mistake).splitlines()) == 1 and len(str(mistake)) < 2000, seed
            assert mistake.key, (seed, str(mistake))
    read()
    return refused


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("manifest.json", json), ("a/prune/index.json", json), ("b/prune/chunk-0-0.bin", None)],
)
def test_prepared_data(copied, name, kind):
    def read():
        manifest = read_manifest(copied)
        described(manifest).encode()
        store = SequenceStore(copied, "prune", manifest)
        schedule = MixtureSchedule(store.chunk_sizes, global_batch=4, seed=0)
        schedule.next_batch(schedule.start([1.0] + [0.0] * (len(store.domains) - 1)))
        for domain in range(len(store.domains)):
            store[domain, 0]

    assert refused_in_one_line(read, copied / name, kind) > EDITS // 2


def test_a_chunk_that_was_changed_is_never_read(copied):
    """As training, ranking and measuring read it: when a process first opens it."""
    path = copied / "b" / "prune" / "chunk-0-0.bin"
    for _ in edits(path, None):
        with pytest.raises(DataError, match=r"chunk-0-0\.bin: "):
            SequenceStore(copied, "prune")[1, 0]
        with pytest.raises(DamagedData, match=r"chunk-0-0\.bin: "):
            verify(str(copied))


def test_references(tmp_path):
    path = tmp_path / "references.yaml"
    write_references(path, References(source="m", tokenizer="f" * 64, losses={"a": 1.5, "b": 2.0}))
    assert (
        refused_in_one_line(lambda: read_references(path).for_domains(("a", "b"), "the data"), path, yaml) > 5
    )


@pytest.fixture
def mixture(tmp_path):
    weights = {"a": 0.5, "b": 0.25, "c": 0.25}
    changes = [
        MixtureChange(step=step, weights=weights, losses=(step and weights) or None) for step in (0, 5)
    ]
    log = MixtureLog(domains=DOMAINS, global_batch=4, sequence_length=4, updates=tuple(changes))
    write_mixture_log(tmp_path / "mixture.json", log)
    return tmp_path / "mixture.json"


def test_mixture_log(mixture):
    assert refused_in_one_line(lambda: read_mixture_log(mixture).final_weights, mixture, json) > 5


def test_mixture_history(mixture, prepared):
    manifest = read_manifest(prepared)

    def read():
        str(simulate(manifest, "prune", read_history(mixture, DOMAINS, "the data"), steps=12, global_batch=8))

    assert refused_in_one_line(read, mixture, json) > 5


@pytest.mark.parametrize(("name", "kind"), [("inputs.jsonl", None), ("tails.json", json)])
def test_ledger(settings, write_jsonl, name, kind):
    options = settings(
        {"web": write_jsonl("web.jsonl", [f"document {n} of some" for n in range(60)])}, workers=1
    )
    manifest = prepare(options)
    ledger = ledger_of(Path(options.output), manifest)
    assert (
        refused_in_one_line(lambda: ledger_of(Path(options.output), manifest), ledger.folder / name, kind) > 5
    )


def test_spools(tmp_path):
    """One that is damaged is made anew: nothing is said."""
    path = tmp_path / "spool"
    record = SpoolRecord(
        documents=2, tokens=3, numbers=2, rejected={}, first=[(2, "empty")], token_type="uint16"
    )
    write_spool(path, record, b"h" * 32, [np.ones(1, "<u2"), np.ones(1, "<u2")])
    assert record_of_spool(path) is None
    with path.open("ab") as file:
        file.write(b"\1\0")
    assert record_of_spool(path) == record
    for _ in edits(path, None):
        if (found := record_of_spool(path)) is not None:
            assert len(Spool(path).lengths()) == found.documents and len(Spool(path).tokens()) == found.tokens


@pytest.mark.parametrize(
    ("name", "kind", "how"),
    [
        ("index.json", json, None),
        ("shard.00000.mds", None, None),
        *((f"shard.00000.mds.{how}", None, how) for how in ("gz", "bz2", "zstd")),
    ],
)
def test_mds(tmp_path, name, kind, how):
    if how == "zstd":
        pytest.importorskip("zstandard")
    write_mds(tmp_path / "mds", [sample(0, number) for number in range(4)], how=how)

    def read():
        for shard in mds_shards(tmp_path / "mds"):
            for packed in shard:
                packed.domain.encode()

    assert refused_in_one_line(read, tmp_path / "mds" / name, kind) > 5


def test_tokenizer(tokenizer_directory, tmp_path):
    copied = shutil.copytree(tokenizer_directory, tmp_path / "tokenizer")

    def read():
        load_tokenizer(str(copied)).record()

    for name in ("tokenizer.json", "tokenizer_config.json"):
        refused_in_one_line(read, copied / name, json)


@pytest.mark.parametrize("name", ["references.yaml", "mixture.json", "manifest.json", "index.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[" * 10**4, b"{" * 10**4, b"null", b"3", b'"x"', b"- 1", "pipe", "directory"],
    ids=lambda content: repr(content[:10]),
)
def test_what_is_no_such_file_at_all(copied, tmp_path, name, content):
    path = {"manifest.json": copied / name, "index.json": copied / "a" / "prune" / name}.get(
        name, tmp_path / name
    )
    path.unlink(missing_ok=True)
    if content == "pipe":
        os.mkfifo(path)
    elif content == "directory":
        path.mkdir()
    else:
        path.write_bytes(content)
    read = {"references.yaml": lambda: read_references(path), "mixture.json": lambda: read_mixture_log(path)}
    with pytest.raises(Mistake) as refused:
        read.get(name, lambda: read_manifest(copied))()
    assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 1000


def test_records_say_where_and_what():
    assert record_of(dict[str, tuple[int, ...]], {"a": [1, 2]}) == {"a": (1, 2)}
    for kind, value, message in (
        (dict[str, list[int]], {"a": [1, True]}, r"a\[1\] is True: a whole number from 0 is expected"),
        (dict[str, list[int]], {"a b": [-1]}, r"'a b'\[0\] is -1"),
        (list[float], [float("inf")], r"\[0\] is inf: a finite number"),
        (int, 2**63, "it is 9223372036854775808: a whole number"),
        (int | None, 1.0, "it is 1.0"),
        (tuple[int, str], [1], r"it is \[1\]: a list of 2"),
        (str, "\ud800", "it is '.udc00'".replace("c00", "800")),
        (dict[str, int], {3: 1}, "is 3: text is expected"),
    ):
        with pytest.raises(ValueError, match=message):
            record_of(kind, value)


def test_hashes_of_documents_that_were_changed_are_refused(settings, write_jsonl):
    """They are sorted; whatever is not was changed, or cut."""
    options = settings(
        {"web": write_jsonl("web.jsonl", [f"document {n} of some" for n in range(60)])}, workers=1
    )
    manifest = prepare(options)
    path = ledger_of(Path(options.output), manifest).documents
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"\0", whole[16:] + whole[:16], whole[:16] * 60, bytes(len(whole))):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"its ledger \(.ledger\) is damaged"):
            ledger_of(Path(options.output), manifest)
