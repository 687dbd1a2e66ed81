"""Padding is no text: no loss, score or count of tokens has any of it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.rank import rank
from shear_lit.data.order.permutation import sample
from shear_lit.data.prepared.chunks import SequenceDocuments, write_part
from shear_lit.data.prepared.manifest import write_manifest
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.store import SequenceStore
from shear_lit.models.llama import llama
from shear_lit.pruning.attach import attach
from shear_lit.ranking.criteria import criteria_by_axis
from shear_lit.ranking.measuring import measure
from shear_lit.ranking.scores import read_scores
from tests.ranking.passages import passages
from tests.toy import DOMAINS, LENGTH

TEXT = LENGTH - 5
"""Tokens of text in each sequence; what follows is said to be padding."""


@pytest.fixture(scope="module")
def padded(toy, tmp_path_factory):
    directory = shutil.copytree(toy.data, tmp_path_factory.mktemp("padded") / "data")
    manifest = read_manifest(directory)
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            chunks = [
                replace(
                    chunk, documents=write_text_ends(directory / name / split / chunk.documents.file, chunk)
                )
                for chunk in record.chunks
            ]
            padding = record.sequences * (LENGTH - TEXT)
            domain.splits[split] = replace(record, chunks=tuple(chunks), padding=padding)
    write_manifest(directory, manifest)
    return str(directory)


def write_text_ends(path, chunk):
    numbers = range(chunk.sequences + 1)
    documents = SequenceDocuments(
        np.array(numbers), np.full(chunk.sequences, TEXT), np.zeros(chunk.sequences)
    )
    return write_part(path, [documents.content()])


def text_of(directory, split, sequences):
    """What is measured on, without the padding, by domain."""
    store = SequenceStore(directory, split)
    for index, name in enumerate(DOMAINS):
        numbers = sample(name, store.chunk_sizes[name], sequences).tolist()
        yield name, store.read([(index, number) for number in numbers])["tokens"][:, :TEXT]


@pytest.mark.parametrize("crossing", [True, False])
def test_losses_are_those_of_the_text(toy, padded, crossing):
    found = evaluate(str(toy.source()), padded, 6, cross_document_attention=crossing).losses
    network = AutoModelForCausalLM.from_pretrained(toy.source())
    with torch.inference_mode():
        for name, tokens in text_of(padded, "validation", 6):
            expected = float(network(input_ids=tokens, labels=tokens).loss)
            assert found[name] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("criterion", ["activation", "fisher"])
def test_scores_are_those_of_the_text(toy, padded, tmp_path, criterion):
    path = str(tmp_path / "scores.safetensors")
    rank(str(toy.source()), path, criterion, padded, sequences_per_domain=4)
    model = AutoModelForCausalLM.from_pretrained(toy.source())
    family, batches = llama(model.config), [tokens for _, tokens in text_of(padded, "prune", 4)]
    expected = measure(
        model,
        family,
        passages(batches),
        criteria_by_axis(criterion),
        set_gates=attach(model, family).set,
        device=torch.device("cpu"),
    ).importance
    scores = read_scores(path)
    for axis, values in scores.importance.items():
        torch.testing.assert_close(values, expected[axis], rtol=1e-3, atol=1e-9)
    assert (scores.origin.sequences, scores.origin.tokens) == (12, 12 * TEXT)
