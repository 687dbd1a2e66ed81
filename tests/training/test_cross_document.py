"""Documents that are kept apart: each is read as if it were alone, in training, validation and evaluation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.reference import measure
from shear_lit.data.order.permutation import sample
from shear_lit.data.order.references import read_references
from shear_lit.data.prepared.chunks import SequenceDocuments
from shear_lit.data.serving import batch as batches
from shear_lit.data.serving.batch import model_inputs
from shear_lit.data.serving.store import SequenceStore
from shear_lit.models.llama import llama
from shear_lit.pruning.attach import attach
from shear_lit.theory.shape import Axis
from tests import tiny
from tests.toy import DOMAINS
from tests.training.compare import distances, same_order
from tests.training.forks import run
from tests.training.runs import fit

EOS = 1
FSDP2 = ("--trainer.strategy=fsdp2", "--trainer.devices=2")
APART = ("--data.cross_document_attention=false",)


def gated(network, settings):
    """Soft gates on every axis, some of them closed."""
    generator = torch.Generator().manual_seed(2)
    shape = llama(settings).shape
    values = {axis: torch.rand(shape.gate_shape(axis), generator=generator) for axis in Axis}
    values[Axis.HIDDEN][::5] = 0
    attach(network, llama(settings)).set(values)
    return network


BEGINS = ((0, 5, 7, 16), (0, 9))
"""Where documents begin in two sequences."""


def packed():
    """Two sequences of several documents of 2 to 11 tokens, with EOS inside one of them as text may have it."""
    tokens = torch.randint(3, tiny.VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(3))
    tokens[0, [4, 6, 10, 15]] = EOS
    tokens[1, [8]] = EOS
    return tokens


def positions_of(tokens):
    """As the store gives them."""
    places = [place for row in BEGINS for place in row]
    documents = SequenceDocuments(np.array([0, 4, 6]), np.array([20, 20]), np.array(places))
    return torch.from_numpy(np.stack([documents.positions(row, 20) for row in range(len(tokens))]))


def documents(tokens):
    """Each document of each sequence: row, first and last place, and its tokens alone."""
    for row, (sequence, begins) in enumerate(zip(tokens, BEGINS, strict=True)):
        for start, end in pairwise((*begins, len(sequence))):
            yield row, slice(start, end), sequence[None, start:end]


def read_documents(tokens):
    """Each document of sequences of the toy, whose text has no EOS inside."""
    for row, sequence in enumerate(tokens):
        ends = [0, *((sequence[:-1] == EOS).nonzero().flatten() + 1).tolist(), len(sequence)]
        for start, end in pairwise(ends):
            yield row, slice(start, end), sequence[None, start:end]


def logits_of(network, tokens, *, positions=True, in_one_row=False):
    batch = {"tokens": tokens}
    if positions:
        batch["positions"] = positions_of(tokens)
    inputs = model_inputs(batch, in_one_row=in_one_row)
    return network(**inputs, use_cache=False).logits.reshape(*tokens.shape, -1)


def check_documents_stand_alone(network, **how):
    tokens = packed()
    together = logits_of(network, tokens, **how)
    for row, place, alone in documents(tokens):
        expected = network(input_ids=alone, use_cache=False).logits[0]
        # Single precision; logits are of the order of 1 to 10.
        torch.testing.assert_close(together[row, place], expected, rtol=0, atol=2e-5)


NETWORKS = [
    (2, "sdpa", False),
    (2, "eager", False),
    (4, "sdpa", False),
    (2, "sdpa", True),
    (2, "eager", True),
]


def network_of(kv_heads, attention, gates):
    settings = tiny.config(kv_heads=kv_heads)
    network = tiny.model(settings)
    network.set_attn_implementation(attention)
    return gated(network, settings) if gates else network


@pytest.mark.parametrize("in_one_row", [False, True])
@pytest.mark.parametrize(("kv_heads", "attention", "gates"), NETWORKS)
def test_logits_of_a_packed_document_are_those_of_the_document_alone(kv_heads, attention, gates, in_one_row):
    """GQA and MHA, with and without gates; laid in one row as flash attention wants it, or not."""
    with torch.no_grad():
        check_documents_stand_alone(network_of(kv_heads, attention, gates), in_one_row=in_one_row)


@pytest.mark.parametrize(("kv_heads", "attention", "gates"), NETWORKS)
def test_logits_would_differ_if_attention_crossed_documents(kv_heads, attention, gates):
    with torch.no_grad(), pytest.raises(AssertionError):
        check_documents_stand_alone(network_of(kv_heads, attention, gates), positions=False)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_of_text_before_padding_are_those_of_the_text_alone(attention):
    """Padding is the last of a sequence, and a document of its own where documents are apart."""
    network, tokens = network_of(2, attention, gates=False), packed()
    bounds = SequenceDocuments(np.array([0, 2, 3]), np.array([14, 9]), np.array([0, 5, 0]))
    positions = torch.from_numpy(np.stack([bounds.positions(row, 20) for row in range(2)]))
    parts = [(0, slice(0, 5)), (0, slice(5, 14)), (1, slice(0, 9))]
    with torch.no_grad():
        together = network(**model_inputs({"tokens": tokens, "positions": positions}), use_cache=False).logits
        crossing = network(**model_inputs({"tokens": tokens}), use_cache=False).logits
        for row, place in parts:
            alone = network(input_ids=tokens[row, None, place], use_cache=False).logits[0]
            torch.testing.assert_close(together[row, place], alone, rtol=0, atol=2e-5)
        torch.testing.assert_close(crossing[1, :9], alone, rtol=0, atol=2e-5)


def mean_of_documents(network, tokens, parts=read_documents):
    """The mean loss over all tokens but the first of each document, each document alone."""
    losses = [
        cross_entropy(
            network(input_ids=alone, use_cache=False).logits[0, :-1], alone[0, 1:], reduction="none"
        )
        for _, _, alone in parts(tokens)
    ]
    return torch.cat(losses).mean()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("gates", [False, True])
def test_gradients_are_those_of_the_documents_alone_also_when_computed_again(gates):
    tokens, gradients = packed(), []
    for checkpointing in (None, False, True):
        network = network_of(2, "sdpa", gates).train()
        if checkpointing:
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if checkpointing is None:
            loss = mean_of_documents(network, tokens, documents)
        else:
            batch = {"tokens": tokens, "positions": positions_of(tokens)}
            loss = network(**model_inputs(batch), use_cache=False).loss
        loss.backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, expected in gradients[0].items():
        for found in gradients[1:]:
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5, msg=name)


def loss_by_domain(network, data):
    """Mean losses on a sample of 6 validation sequences of each domain, each document alone."""
    store, losses = SequenceStore(data, "validation"), {}
    for index, name in enumerate(DOMAINS):
        numbers = sample(name, store.chunk_sizes[name], 6).tolist()
        tokens = store.read([(index, number) for number in numbers])["tokens"]
        assert (tokens[:, :-1] == EOS).any()
        losses[name] = float(mean_of_documents(network, tokens))
    return losses


def test_setting_reaches_training_validation_and_evaluation(toy, whole, tmp_path):
    """The first loss of a run that continues pre-training, and its losses by domain before it."""
    (record,) = whole("pretrain", *APART)[1]
    source = str(toy.source())
    with torch.no_grad():
        network = AutoModelForCausalLM.from_pretrained(source)
        expected = loss_by_domain(network, toy.data)
        for step in range(2):  # the first has no learning rate yet
            parts = [record["batches"][step, number] for number in range(4)]
            assert sum(int((batch["tokens"][:, :-1] == EOS).sum()) for batch in parts) > 0
            # Each counts by what it predicts: their mean is that of all tokens of the global batch.
            together = torch.cat([batch["tokens"] for batch in parts])
            losses = [batch["loss"] for batch in parts]
            assert sum(losses) / 4 == pytest.approx(float(mean_of_documents(network, together)), abs=1e-5)
    validated = dict(zip(DOMAINS, record["domain_losses"][0].tolist(), strict=True))
    evaluated = evaluate(source, str(toy.data), 6, cross_document_attention=False).losses
    measure(source, str(toy.data), str(tmp_path / "r.yaml"), 6, cross_document_attention=False)
    written = read_references(tmp_path / "r.yaml")
    assert validated == pytest.approx(expected, abs=1e-5)
    assert evaluated == pytest.approx(expected, abs=1e-5) and written.losses == pytest.approx(evaluated)
    assert written.cross_document_attention is False
    together = evaluate(source, str(toy.data), 6).losses
    assert max(abs(together[name] - expected[name]) for name in DOMAINS) > 1e-3


def test_setting_reaches_a_run_with_gates(whole):
    """The same first batch and noise; another loss only where a sequence has more than one document."""
    (apart,), (together,) = whole("prune", *APART)[1], whole("prune")[1]
    tokens = torch.cat([apart["batches"][0, number]["tokens"] for number in range(4)])
    share = int((tokens[:, :-1] != EOS).sum()) / tokens[:, 1:].numel()
    for number in range(4):
        one, other = apart["batches"][0, number], together["batches"][0, number]
        assert torch.equal(one["tokens"], other["tokens"])
        several = bool((one["tokens"][:, :-1] == EOS).any())
        assert (abs(share * one["loss"] - other["loss"]) > 1e-6) == several


def test_setting_means_the_same_on_two_sharded_processes(toy, tmp_path, whole):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), *APART, *FSDP2]
    two = run(fit, tmp_path / "log", processes=2, arguments=arguments)
    _, one = whole("pretrain", *APART)
    assert same_order(one, two)
    found = distances(one, two)
    assert max(found.values()) <= 1e-5, found


def forget_the_positions():
    """Break the link between the batch and the model."""
    from shear_lit.training import module

    module.model_inputs = lambda batch, **_: batches.model_inputs({"tokens": batch["tokens"]})


def test_positions_that_did_not_reach_the_model_would_be_seen(toy, tmp_path, whole):
    arguments = [*toy.arguments("prune", tmp_path / "run"), *APART, "--trainer.max_steps=4"]
    (broken,) = run(fit, tmp_path / "log", arguments=arguments, sabotage=forget_the_positions)
    (apart,) = whole("prune", *APART)[1]
    assert any(broken["batches"][0, n]["loss"] != apart["batches"][0, n]["loss"] for n in range(4))
