"""Where documents begin in packed sequences, and what a model is given so that it looks into none but its own."""

from dataclasses import replace

import pytest
import torch

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.order.references import References, write_references
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.manifest import write_manifest
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.boundaries import DocumentBoundary, boundary_of, document_positions, model_inputs
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.loader import MixtureLoader, ValidationLoader
from shear_lit.data.serving.store import SequenceStore

EOS, BOS = 1, 2


@pytest.mark.parametrize(
    ("end", "begin", "tokens", "positions"),
    [
        (EOS, None, [7, 8, 1, 9, 1, 5, 6], [0, 1, 2, 0, 1, 0, 1]),
        (EOS, None, [1, 1, 1, 9, 9, 9, 1], [0, 0, 0, 0, 1, 2, 3]),
        (EOS, None, [7, 7, 7, 7, 7, 7, 7], [0, 1, 2, 3, 4, 5, 6]),
        (None, BOS, [7, 2, 8, 2, 2, 9, 9], [0, 0, 1, 0, 0, 1, 2]),
        (None, BOS, [2, 7, 8, 9, 9, 9, 2], [0, 1, 2, 3, 4, 5, 0]),
        (EOS, BOS, [7, 1, 2, 8, 1, 9, 2], [0, 1, 0, 1, 2, 3, 4]),  # neither alone is a boundary
        (3, 3, [7, 3, 3, 8, 3, 3, 9], [0, 1, 0, 1, 2, 0, 1]),  # one token for both
    ],
)
def test_positions_begin_anew_with_each_document(end, begin, tokens, positions):
    boundary = DocumentBoundary(end=end, begin=begin)
    found = document_positions(torch.tensor([tokens, tokens[::-1]]), boundary)
    assert found[0].tolist() == positions and found.dtype == torch.int64
    assert document_positions(torch.tensor([tokens[::-1]]), boundary).tolist() == found[1:].tolist()


def test_boundary_is_what_the_manifest_says_was_added(prepared):
    manifest = read_manifest(prepared)
    tokenizer = replace(manifest.tokenizer, bos_id=BOS, eos_id=EOS)
    for eos, bos in ((True, False), (False, True), (True, True)):
        changed = replace(manifest, tokenizer=tokenizer, append_eos=eos, prepend_bos=bos)
        expected = DocumentBoundary(end=EOS if eos else None, begin=BOS if bos else None)
        assert boundary_of(changed, "here") == expected
    with pytest.raises(DataError, match=r"data\.cross_document_attention=false.*'here'.*append_eos=true"):
        boundary_of(replace(manifest, tokenizer=tokenizer), "here")


def test_inputs_of_a_batch_without_positions_are_its_tokens():
    """What is off costs nothing: no positions, no labels of their own."""
    tokens = torch.tensor([[7, 1, 8]])
    inputs = model_inputs({"tokens": tokens, "domain": torch.tensor([0])})
    assert inputs.keys() == {"input_ids", "labels"}
    assert inputs["input_ids"] is tokens and inputs["labels"] is tokens


def test_first_token_of_a_document_is_no_label():
    tokens = torch.tensor([[7, 1, 8, 9], [6, 5, 1, 4]])
    positions = document_positions(tokens, DocumentBoundary(end=1, begin=None))
    inputs = model_inputs({"tokens": tokens, "positions": positions})
    assert inputs["labels"].tolist() == [[-100, 1, -100, 9], [-100, 5, 1, -100]]
    row = model_inputs({"tokens": tokens, "positions": positions}, in_one_row=True)
    assert row["position_ids"].tolist() == [[0, 1, 0, 1, 0, 1, 2, 0]]
    assert row["labels"].tolist() == [[-100, 1, -100, 9, -100, 5, 1, -100]]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_say_where_documents_are_only_if_asked(prepared, workers):
    store, boundary = SequenceStore(prepared, "prune"), DocumentBoundary(end=0, begin=None)
    for wanted in (None, boundary):
        plan = MixtureSchedule(store.chunk_sizes, global_batch=4, seed=1)
        each = MixtureLoader(
            store,
            plan,
            (0.4, 0.3, 0.3),
            steps=2,
            update_every_steps=2,
            micro_batch=2,
            workers=workers,
            boundary=wanted,
        )
        batches = [*each, *ValidationLoader(store, sequences=3, micro_batch=2, boundary=wanted)]
        assert all(("positions" in batch) == (wanted is not None) for batch in batches)
        for batch in batches if wanted else []:
            assert torch.equal(batch["positions"], document_positions(batch["tokens"], boundary))


def data(directory, **changes):
    settings = {"proportions": {"a": 0.2, "b": 0.4, "c": 0.4}, "rule": "static"} | changes.pop("mixture", {})
    return DomainData(str(directory), MixtureSettings(**settings), **changes)


def test_data_that_tells_no_documents_apart_is_refused_before_anything_is_read(prepared):
    with pytest.raises(DataError, match=r"data\.cross_document_attention=false"):
        data(prepared, cross_document_attention=False).check_data()
    assert data(prepared).boundary is None


def test_references_of_documents_that_were_read_otherwise_are_refused(prepared, tmp_path):
    losses, directory = {"a": 1.0, "b": 1.0, "c": 1.0}, tmp_path / "data"
    for file in prepared.rglob("*"):
        target = directory / file.relative_to(prepared)
        target.mkdir(parents=True) if file.is_dir() else target.write_bytes(file.read_bytes())
    write_manifest(directory, replace(read_manifest(prepared), append_eos=True))
    path = tmp_path / "references.yaml"
    for measured, crosses in ((True, False), (False, True)):
        write_references(
            path, References(source="m", tokenizer="", losses=losses, cross_document_attention=measured)
        )
        settings = {"rule": "paper", "references": str(path)}
        with pytest.raises(DataError, match="read alone and together cannot be compared"):
            data(directory, mixture=settings, cross_document_attention=crosses).check_data()
        data(directory, mixture=settings, cross_document_attention=measured).check_data()
    settings = {"rule": "paper", "references": losses}  # by hand: nobody knows
    data(directory, mixture=settings, cross_document_attention=False).check_data()
