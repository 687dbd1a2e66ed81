"""A teacher's cache: what it holds is what the teacher says, whoever writes it, and nothing half-written is read."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from shear_lit import cli
from shear_lit.commands import teaching
from shear_lit.commands.teach import teach
from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.batch import model_inputs
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.taught import record as records
from shear_lit.data.taught.files import MissingSequence, TeacherCache, claimed
from shear_lit.data.taught.record import read_record
from shear_lit.evaluation.teaching import _uniform
from shear_lit.models.huggingface import read_model
from tests.toy import DOMAINS, LENGTH
from tests.training.forks import start
from tests.training.runs import run_command_line

SEQUENCES = 16
WHOLE = {"method": "top_k", "kept": 300}


def taught(toy, output, **options):
    defaults = {"sequences_per_domain": 3, "method": "top_k", "kept": 5}
    return teach(str(toy.source()), str(toy.data), str(output), **{**defaults, **options})


def cache_of(toy, directory):
    return TeacherCache(read_record(directory), read_manifest(toy.data))


def files_in(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def taught_in(directory):
    return {name: content for name, content in files_in(directory).items() if not name.endswith(".lock")}


def keys_in(cache):
    """All that a cache holds."""
    return [
        (domain, int(number))
        for domain in range(len(DOMAINS))
        for number in cache.has(domain, np.arange(len(cache._places[domain]))).nonzero()[0]
    ]


@pytest.mark.parametrize("apart", [False, True], ids=["across documents", "documents apart"])
def test_cache_of_all_tokens_is_the_distribution_of_the_teacher(toy, tmp_path, apart):
    found = taught(toy, tmp_path / "cache", temperature=2.0, cross_document_attention=not apart, **WHOLE)
    assert (found.written, found.there, found.asked) == (9, 9, 9)
    cache = cache_of(toy, tmp_path / "cache")
    keys = keys_in(cache)[::2]
    said = cache.read(keys)
    store = SequenceStore(toy.data, "pretrain")
    inputs = model_inputs(store.read(keys, documents_apart=apart))
    given = {name: part for name, part in inputs.items() if name != "labels"}
    with torch.no_grad():
        p = (read_model(str(toy.source()), dtype=torch.float32)(**given, use_cache=False).logits / 2).softmax(
            -1
        )
    assert said.outside is not None and not said.outside.any()
    shares = torch.zeros_like(p).scatter_(-1, said.tokens, said.shares)
    torch.testing.assert_close(shares, p, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(said.negative_entropy, torch.xlogy(p, p).sum(-1), rtol=1e-5, atol=1e-6)


def test_draws_depend_on_the_sequence_alone(toy, tmp_path):
    """Neither on what passes beside it nor on who writes it; and the seed makes others."""
    options = {"method": "sampled", "kept": 8, "sequences_per_domain": 7}
    for name, more in {"a": {}, "b": {"micro_batch": 7}, "c": {"seed": 18}}.items():
        taught(toy, tmp_path / name, **options, **more)
    caches = [cache_of(toy, tmp_path / name) for name in "abc"]
    keys = keys_in(caches[0])
    a, b = (cache.read(keys) for cache in caches[:2])
    c = caches[2].read(keys_in(caches[2]))
    assert torch.equal(a.tokens, b.tokens) and not torch.equal(a.tokens, c.tokens)
    assert len({tuple(rows.flatten().tolist()) for rows in a.tokens}) == len(keys)


def test_other_seeds_domains_and_sequences_have_other_draws(toy, tmp_path):
    record = taught(toy, tmp_path, sequences_per_domain=1).record
    found = {
        tuple(_uniform(replace(record, seed=seed), domain, sequence).tolist())
        for seed in (17, 18)
        for domain in ("law", "wiki")
        for sequence in (0, 1)
    }
    assert len(found) == 8 and all(0 <= number < 1 for numbers in found for number in numbers)


def test_the_sequences_that_a_run_draws_first_are_those_that_are_there(toy, tmp_path):
    taught(toy, tmp_path / "cache", sequences_per_domain=5, seed=23)
    cache, manifest = cache_of(toy, tmp_path / "cache"), read_manifest(toy.data)
    schedule = MixtureSchedule(
        manifest.chunk_sizes("pretrain"), global_batch=5, seed=23, max_epochs=float("inf")
    )
    state = schedule.start([0.2, 0.4, 0.4])
    drawn = []
    for _ in range(2):
        batch, state = schedule.next_batch(state)
        drawn += zip(batch.domain.tolist(), batch.sequence.tolist(), strict=True)
    assert cache.missing(drawn) == []
    rest = [(0, n) for n in range(20) if (0, n) not in keys_in(cache)]
    assert cache.missing(rest) == list(range(len(rest)))
    with pytest.raises(MissingSequence, match=r"model\.distillation\.missing=compute"):
        cache.read(rest[:1])


def test_a_cache_is_gone_on_from_and_holds_the_same(toy, tmp_path, monkeypatch):
    """It may be added to; what a process left that was killed while it wrote is not read, and goes."""
    monkeypatch.setattr(records, "_MOST_SEQUENCES", 2)
    taught(toy, tmp_path / "whole", sequences_per_domain=6)
    taught(toy, tmp_path / "part", sequences_per_domain=3)
    (tmp_path / "part" / "law" / "000000002-000000004.taught.99.part").write_bytes(b"half")
    again = taught(toy, tmp_path / "part", sequences_per_domain=6)
    assert again.there == 18 and again.written == 12
    found, whole = files_in(tmp_path / "part"), files_in(tmp_path / "whole")
    assert whole.items() <= found.items() and not [name for name in found if "part" in name or "lock" in name]
    nothing = taught(toy, tmp_path / "part", sequences_per_domain=6)
    assert nothing.written == 0 and "0 of them now" in str(nothing)


def test_a_file_is_written_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "law" / "000000000-000000002.taught"
    with claimed(path) as ours, claimed(path) as theirs:
        assert ours and not theirs
    path.write_bytes(b"")
    with claimed(path) as ours:
        assert not ours


def flags(toy, output, *more):
    return [
        "teach",
        f"--model={toy.source()}",
        f"--data={toy.data}",
        f"--output={output}",
        f"--sequences_per_domain={SEQUENCES}",
        *more,
    ]


def teach_in_small_files(arguments):
    records._MOST_SEQUENCES = 1
    return run_command_line(arguments)


@pytest.mark.skipif(os.environ.get("SHEAR_LIT_DISTIL") != "all", reason="kills are make distil's")
def test_two_processes_one_of_which_is_killed_make_what_one_makes(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_MOST_SEQUENCES", 1)
    defaults = {"sequences_per_domain": SEQUENCES, "method": "sampled", "kept": 64}
    taught(toy, tmp_path / "whole", **defaults)
    arguments = flags(toy, tmp_path / "cache")
    both = [start(teach_in_small_files, tmp_path / name, arguments=arguments) for name in ("a", "b")]
    both[0].until(lambda: len(list((tmp_path / "cache").rglob("*.taught"))) >= 3)
    both[0].kill()
    both[1].wait()
    taught(toy, tmp_path / "cache", **defaults)  # what the first was at work on
    assert taught_in(tmp_path / "cache") == taught_in(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [
        {"kept": 6},
        {"method": "sampled"},
        {"temperature": 2.0},
        {"split": "prune"},
        {"seed": 1},
        {"cross_document_attention": False},
    ],
    ids=str,
)
def test_a_cache_of_another_kind_is_not_gone_on_from(toy, tmp_path, change):
    taught(toy, tmp_path, sequences_per_domain=1)
    before = files_in(tmp_path)
    with pytest.raises(DataError, match=rf"output='.*{next(iter(change))} .* is asked for"):
        taught(toy, tmp_path, sequences_per_domain=1, **change)
    assert files_in(tmp_path) == before


def test_another_teacher_does_not_go_on(toy, tmp_path):
    taught(toy, tmp_path, sequences_per_domain=1)
    with pytest.raises(DataError, match="teacher_fingerprint"):
        teach(str(toy.source("mha-untied")), str(toy.data), str(tmp_path), method="top_k", kept=5)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--kept=301", "kept=301: the teacher has 300 entries. Use kept=300"),
        ("--kept=0", "kept"),
        ("--temperature=0", "temperature"),
        ("--method=all", "method"),
        ("--output={full}", "is not empty and has no cache.json"),
        ("--data={full}", "data='"),
        ("--model=no/such", "model"),
    ],
)
def test_what_cannot_be_is_refused_before_a_weight_is_read(toy, tmp_path, capsys, monkeypatch, flag, said):
    monkeypatch.setattr(teaching, "read_model", None)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    with pytest.raises(SystemExit) as left:
        cli.main([*flags(toy, tmp_path / "new"), "--method=top_k", "--kept=5", flag.format(full=full)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert left.value.code == 2 and said in line
    assert not (tmp_path / "new").exists()


def changed(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record.update(format=2),
        lambda record: record.update(method="all"),
        lambda record: record.update(kept=10**9),
        lambda record: record.update(temperature=0.0),
        lambda record: record.update(data_fingerprint="x"),
        lambda record: record.pop("seed"),
        lambda record: record.update(more=1),
    ],
)
def test_a_record_that_was_changed_is_refused(toy, tmp_path, edit):
    taught(toy, tmp_path, sequences_per_domain=1)
    changed(tmp_path / "cache.json", edit)
    with pytest.raises(DataError, match=r"cache\.json cannot be used"):
        read_record(tmp_path)


@pytest.mark.parametrize("where", ["number", "answer", "hash", "length", "link"])
def test_a_file_that_was_changed_is_refused_by_name(toy, tmp_path, where):
    taught(toy, tmp_path / "cache", sequences_per_domain=2)
    (path,) = (tmp_path / "cache" / "law").glob("*.taught")
    content = bytearray(path.read_bytes())
    if where == "length":
        content.pop()
    else:
        content[{"number": 7, "answer": 40, "hash": -1, "link": 40}[where]] ^= 1
    if where == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_bytes(content)
    with pytest.raises(DamagedData, match=path.name):
        cache = cache_of(toy, tmp_path / "cache")
        cache.read([key for key in keys_in(cache) if key[0] == DOMAINS.index("law")])


def test_tokens_beyond_the_vocabulary_are_refused(toy, tmp_path):
    """They would be looked up in the model's logits."""
    taught(toy, tmp_path, sequences_per_domain=1, **WHOLE)
    changed(tmp_path / "cache.json", lambda record: record.update(vocabulary=299, kept=300))
    with pytest.raises(DataError, match="kept is 300, of 299"):
        read_record(tmp_path)
    changed(tmp_path / "cache.json", lambda record: record.update(vocabulary=300))
    record = replace(read_record(tmp_path), vocabulary=299)
    cache = TeacherCache(record, read_manifest(toy.data))
    with pytest.raises(DamagedData, match="beyond the 299"):
        cache.read(keys_in(cache)[:1])


def test_size_on_disk_is_what_the_documents_say(toy, tmp_path):
    """2 bytes for a draw; 6 for a token of the top k; 4 for what is beside them. Wide ids take 2 more."""
    for method, expected in {"sampled": 2 * 8 + 4, "top_k": 6 * 8 + 4}.items():
        found = taught(toy, tmp_path / method, method=method, kept=8, sequences_per_domain=2)
        assert f"{expected} bytes per token" in str(found)
        (path,) = (tmp_path / method / "law").glob("*.taught")
        assert path.stat().st_size == 2 * (8 + LENGTH * expected) + 32
    record = read_record(tmp_path / "sampled")
    assert replace(record, vocabulary=1 << 17).sequence_type.itemsize == LENGTH * (4 * 8 + 4)
    assert np.dtype(record.sequence_type).names == ("tokens", "negative_entropy")
