"""Where documents begin in packed sequences, and what a model is given so that it looks into none but its own."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.order.references import References, write_references
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import DomainRecord, write_manifest
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving import datamodule
from shear_lit.data.serving.batch import IGNORED, model_inputs, predicted_tokens
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from tests.data.conftest import RECORD, write_prepared, write_split

LENGTH, SIZES = 24, {"packed": 600, "padded": 400}
PLACES, FILL = 64, 200_000
"""A token is ``PLACES`` times the number of its document, and its place in it; or ``FILL``, which is padding."""


def stream(chance, sequences):
    """One document after the other, cut where sequences end: the tokens, and where documents begin."""
    tokens = []
    for document in range(sequences * LENGTH):
        tokens += [document * PLACES + place for place in range(chance.randint(1, 60))]
        if len(tokens) >= sequences * LENGTH:
            break
    return [tokens[LENGTH * s : LENGTH * (s + 1)] for s in range(sequences)]


def bins(chance, sequences):
    """Whole documents, and padding where none fits any more."""
    rows, document = [], 0
    for _ in range(sequences):
        rows.append([])
        while len(rows[-1]) < LENGTH and chance.random() < 0.9:
            length = chance.randint(1, LENGTH - len(rows[-1]))
            rows[-1] += [document * PLACES + place for place in range(length)]
            document += 1
        rows[-1] += [FILL] * (LENGTH - len(rows[-1]))
    return rows


def begins(row):
    """Where documents begin, in a sequence whose tokens tell their place."""
    return [place for place, token in enumerate(row) if token != FILL and token % PLACES == 0]


def write_documents(directory, *, as_stored=lambda tokens: tokens):
    """Write the planted sequences, as ``as_stored`` turns their tokens into others, and give them by domain."""
    chance, domains = random.Random(5), {}
    planted = [stream(chance, SIZES["packed"]), bins(chance, SIZES["padded"])]
    for name, rows in zip(SIZES, planted, strict=True):
        splits = {}
        for split in ("prune", "validation"):
            splits[split] = write_split(
                directory / name / split,
                as_stored(np.array(rows, dtype=np.uint32)),
                per_chunk=37,
                starts=[begins(row) for row in rows],
                ends=[LENGTH - row.count(FILL) for row in rows],
            )
        domains[name] = DomainRecord(documents=1, rejected={}, splits=splits)
    manifest = replace(
        read_manifest(write_empty(directory)),
        tokenizer=replace(RECORD, vocabulary=FILL + 1),
        sequence_length=LENGTH,
        domains=domains,
    )
    write_manifest(directory, manifest)
    return planted


def write_empty(directory):
    return write_prepared(directory / "empty", {"a": 1}, token_type="uint32")


def expected(row):
    """By the plain definition: each token's position in its document, or in padding, and its label."""
    positions, labels, before = [], [], None
    for token in row:
        document = "padding" if token == FILL else token // PLACES
        positions.append(positions[-1] + 1 if document == before else 0)
        labels.append(IGNORED if token == FILL or positions[-1] == 0 else token)
        before = document
    return positions, labels


def batches_of(directory, workers=None):
    """All sequences of the data: once through by training, or the whole of validation."""
    if workers is None:
        store = SequenceStore(directory, "validation")
        return ValidationLoader(store, sequences=600, micro_batch=25, documents_apart=True)
    store = SequenceStore(directory, "prune")
    plan = MixtureSchedule(store.chunk_sizes, global_batch=50, seed=2, max_epochs=1)
    settings = {"steps": 20, "update_every_steps": 5, "micro_batch": 5, "workers": workers}
    return MixtureLoader(store, plan, (0.6, 0.4), documents_apart=True, **settings)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    directory = tmp_path_factory.mktemp("documents")
    return directory, write_documents(directory)


@pytest.mark.parametrize("workers", [None, 0, 2], ids=["validation", "training", "two workers"])
def test_positions_and_labels_are_those_of_the_documents(documents, workers):
    """Of 1,000 packed sequences, by a plain definition over tokens that tell their document and their place in it."""
    directory, planted = documents
    seen, wrong_positions, wrong_labels = set(), 0, 0
    for batch in batches_of(directory, workers):
        inputs = model_inputs(batch)
        assert inputs["position_ids"].dtype == torch.int64 and batch["micro_batch"] >= 0
        parts = (batch["domain"], batch["tokens"], inputs["position_ids"], inputs["labels"])
        for domain, row, positions, labels in zip(*(part.tolist() for part in parts), strict=True):
            wanted = expected(row)
            wrong_positions += sum(a != b for a, b in zip(positions, wanted[0], strict=True))
            wrong_labels += sum(a != b for a, b in zip(labels, wanted[1], strict=True))
            seen.add((domain, tuple(row)))
    assert (wrong_positions, wrong_labels) == (0, 0)
    rows = {(d, tuple(row)) for d, rows in enumerate(planted) for row in rows}
    assert seen == rows


def test_ids_inside_a_document_do_not_matter(documents, tmp_path):
    """The twin: every token is EOS, by which earlier versions told documents apart."""
    write_documents(tmp_path, as_stored=np.zeros_like)
    for planted, all_eos in zip(batches_of(documents[0]), batches_of(tmp_path), strict=True):
        assert torch.equal(planted["positions"], all_eos["positions"])
        assert not all_eos["tokens"].any() and torch.equal(
            predicted_tokens(planted), predicted_tokens(all_eos)
        )


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_not_asked_for_is_not_read(prepared, monkeypatch, workers):
    """Positions only where documents are apart, a mask only where there is padding: neither costs others anything."""
    monkeypatch.setattr(SequenceStore, "_read_bounds", lambda *_: pytest.fail("it was read"))
    store = SequenceStore(prepared, "prune")
    plan = MixtureSchedule(store.chunk_sizes, global_batch=4, seed=1)
    settings = {"steps": 2, "update_every_steps": 2, "micro_batch": 2, "workers": workers}
    for each in (
        MixtureLoader(store, plan, (0.4, 0.3, 0.3), **settings),
        ValidationLoader(store, sequences=3, micro_batch=2),
    ):
        # The keys of a batch are the schedule's own.
        assert all(batch.keys() - {"keys"} == {"tokens", "domain", "micro_batch"} for batch in each)


def test_bounds_of_the_chunks_that_are_drawn_from_are_kept(documents, monkeypatch):
    read, count = SequenceStore._read_bounds, []
    monkeypatch.setattr(SequenceStore, "_read_bounds", lambda *place: count.append(1) or read(*place))
    loader = batches_of(documents[0], 0)
    for _ in loader:
        pass
    assert len(count) == 17 + 11 and len(loader._store._documents) <= 32  # each of the chunks once


def test_padding_is_no_text_where_attention_crosses_documents(documents):
    directory, _ = documents
    store = SequenceStore(directory, "validation")
    for batch in ValidationLoader(store, sequences=40, micro_batch=8):
        inputs = model_inputs(batch)
        padded = batch["tokens"] == FILL
        assert "position_ids" not in inputs and (bool(padded.any()) <= ("loss_mask" in batch))
        assert torch.equal(inputs["labels"] == IGNORED, padded)


@pytest.fixture
def masked(tmp_path):
    """Data of 22 sequences in 3 chunks, the middle one with a mask, and the mask of all."""
    mask = np.ones((22, 11), dtype=bool)
    mask[8:16] = np.random.default_rng(3).random((8, 11)) < 0.5
    tokens = np.arange(22 * 11, dtype=np.uint16).reshape(22, 11)
    record = write_split(tmp_path / "a" / "prune", tokens, per_chunk=8)
    bits = np.packbits(mask[8:16], axis=1, bitorder="little")
    beside = write_part(tmp_path / "a" / "prune" / "chunk-0-1.mask", [bits.tobytes()])
    chunks = list(record.chunks)
    chunks[1] = replace(chunks[1], loss_mask=beside)
    domain = DomainRecord(documents=22, rejected={}, splits={"prune": replace(record, chunks=tuple(chunks))})
    manifest = replace(
        read_manifest(write_empty(tmp_path)), token_type="uint16", sequence_length=11, domains={"a": domain}
    )
    write_manifest(tmp_path, manifest)
    return tmp_path, torch.from_numpy(mask)


@pytest.mark.parametrize("apart", [False, True])
def test_tokens_that_are_masked_are_no_labels(masked, apart):
    directory, mask = masked
    store = SequenceStore(directory, "prune")
    (batch,) = ValidationLoader(store, sequences=22, micro_batch=22, documents_apart=apart)
    assert torch.equal(batch["loss_mask"], mask)
    if apart:
        mask = mask & (torch.arange(11) > 0)  # a document begins with each sequence
    assert torch.equal(predicted_tokens(batch), mask)
    assert torch.equal(model_inputs(batch)["labels"], torch.where(mask, batch["tokens"], IGNORED))
    plan = MixtureSchedule(store.chunk_sizes, global_batch=4, seed=1)
    settings = {"steps": 5, "update_every_steps": 5, "micro_batch": 4, "workers": 1, "documents_apart": apart}
    for read in MixtureLoader(store, plan, (1.0,), **settings):
        rows = read["tokens"][:, 0] // 11
        assert torch.equal(predicted_tokens(read), mask[rows])


@pytest.mark.parametrize("suffix", ["documents", "mask"])
def test_bounds_and_masks_that_were_changed_are_never_read(masked, suffix):
    directory, _ = masked
    path = directory / "a" / "prune" / f"chunk-0-1.{suffix}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedData, match=rf"chunk-0-1\.{suffix}: the file's content changed"):
        SequenceStore(directory, "prune").read([(0, 9)], documents_apart=True)


@pytest.mark.parametrize("suffix", ["documents", "mask"])
def test_bounds_and_masks_of_another_chunk_are_refused(masked, suffix):
    """With a hash that is right: the manifest itself names the wrong one."""
    directory, _ = masked
    field = {"documents": "documents", "mask": "loss_mask"}[suffix]
    manifest = json.loads((directory / "manifest.json").read_text())
    chunks = manifest["domains"]["a"]["splits"]["prune"]["chunks"]
    chunks[2][field] = chunks[1][field]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedData, match=rf"a/prune/chunk-0-1\.{suffix}: it is not that of its chunk"):
        SequenceStore(directory, "prune").read([(0, 18)], documents_apart=True)


def test_inputs_of_a_batch_without_positions_are_its_tokens():
    """What is off costs nothing: no positions, no labels of their own."""
    tokens = torch.tensor([[7, 1, 8]])
    inputs = model_inputs({"tokens": tokens, "domain": torch.tensor([0])})
    assert inputs.keys() == {"input_ids", "labels"}
    assert inputs["input_ids"] is tokens and inputs["labels"] is tokens


def test_first_token_of_a_document_is_no_label():
    tokens = torch.tensor([[7, 1, 8, 9], [6, 5, 1, 4]])
    batch = {"tokens": tokens, "positions": torch.tensor([[0, 1, 0, 1], [0, 1, 2, 0]])}
    assert model_inputs(batch)["labels"].tolist() == [[-100, 1, -100, 9], [-100, 5, 1, -100]]
    row = model_inputs(batch, in_one_row=True)
    assert row["position_ids"].tolist() == [[0, 1, 0, 1, 0, 1, 2, 0]]
    assert row["labels"].tolist() == [[-100, 1, -100, 9, -100, 5, 1, -100]]


def data(directory, **changes):
    settings = {"proportions": {"a": 0.2, "b": 0.4, "c": 0.4}, "rule": "static"} | changes.pop("mixture", {})
    return DomainData(str(directory), MixtureSettings(**settings), **changes)


def earlier(manifest):
    """As an earlier version wrote it: it did not know where the documents of one domain begin."""
    domain = manifest.domains["b"]
    chunks = tuple(replace(chunk, documents=None) for chunk in domain.splits["prune"].chunks)
    splits = domain.splits | {"prune": replace(domain.splits["prune"], chunks=chunks)}
    return replace(manifest, format=2, domains=manifest.domains | {"b": replace(domain, splits=splits)})


def test_data_that_tells_no_documents_apart_is_refused_before_anything_is_read(prepared):
    store = SequenceStore(prepared, "prune", earlier(read_manifest(prepared)))
    refusal = r"data\.cross_document_attention=false: .*Run `shear-lit prepare --bounds .*` to add it"
    with pytest.raises(DataError, match=refusal):
        ValidationLoader(store, sequences=3, micro_batch=2, documents_apart=True)
    ValidationLoader(store, sequences=3, micro_batch=2)


def test_a_run_on_data_of_an_earlier_version_is_refused_before_anything_is_read(prepared, monkeypatch):
    data(prepared, cross_document_attention=False).check_data()
    manifest = earlier(read_manifest(prepared))
    monkeypatch.setattr(datamodule, "read_data", lambda *_: manifest)
    data(prepared).check_data()
    with pytest.raises(DataError, match="--bounds"):
        data(prepared, cross_document_attention=False).check_data()


def test_references_of_documents_that_were_read_otherwise_are_refused(prepared, tmp_path):
    losses = {"a": 1.0, "b": 1.0, "c": 1.0}
    path = tmp_path / "references.yaml"
    for measured, crosses in ((True, False), (False, True)):
        write_references(path, References(losses=losses, cross_document_attention=measured))
        settings = {"rule": "paper", "references": str(path)}
        with pytest.raises(DataError, match="read alone and together cannot be compared"):
            data(prepared, mixture=settings, cross_document_attention=crosses).check_data()
        data(prepared, mixture=settings, cross_document_attention=measured).check_data()
    settings = {"rule": "paper", "references": losses}  # by hand: nobody knows
    data(prepared, mixture=settings, cross_document_attention=False).check_data()


def train_loader(directory, *, apart=True, rank=0, world=1, workers=0, state=None):
    store = SequenceStore(directory, "prune")
    plan = MixtureSchedule(store.chunk_sizes, global_batch=20, seed=2, max_epochs=4)
    loader = MixtureLoader(
        store,
        plan,
        (0.6, 0.4),
        documents_apart=apart,
        steps=6,
        update_every_steps=3,
        micro_batch=5,
        rank=rank,
        world_size=world,
        workers=workers,
    )
    if state is not None:
        loader.load_state_dict(state)
    return loader


@pytest.mark.parametrize("apart", [True, False])
def test_batch_knows_how_many_tokens_its_global_batch_predicts_here(documents, apart):
    """By the labels that a model is given; of any number of processes and workers, and after a stop inside a batch."""
    directory, _ = documents
    labels = [model_inputs(batch)["labels"][:, 1:] for batch in train_loader(directory, apart=apart)]
    counts = [int((part != IGNORED).sum()) for part in labels]
    whole = [sum(counts[start : start + 4]) for start in range(0, len(counts), 4)]
    assert len(set(whole)) > 1, "or nothing would be tested"
    for world, workers in ((1, 0), (1, 2), (2, 0)):
        loaders = [
            train_loader(directory, apart=apart, rank=rank, world=world, workers=workers)
            for rank in range(world)
        ]
        found = [[batch["predicted"] for batch in loader] for loader in loaders]
        assert [sum(parts) for parts in zip(*found, strict=True)] == [
            count for count in whole for _ in range(4 // world)
        ]
    stopped = train_loader(directory, apart=apart)
    for count, _ in enumerate(stopped, start=1):
        if count == 7:
            break
    rest = [batch["predicted"] for batch in train_loader(directory, apart=apart, state=stopped.state_dict())]
    assert rest == [whole[1], *(count for count in whole[2:] for _ in range(4))]


def test_where_all_tokens_are_predicted_no_batch_counts_them(prepared):
    assert all("predicted" not in batch for batch in train_loader_of_three(prepared))


def train_loader_of_three(directory):
    store = SequenceStore(directory, "prune")
    plan = MixtureSchedule(store.chunk_sizes, global_batch=4, seed=2)
    return MixtureLoader(store, plan, (0.5, 0.3, 0.2), steps=2, update_every_steps=1, micro_batch=2)
