"""Errors that respect documents, and bits per byte: by hand, by simulation, and by ten lines of transformers."""

import json
import math
import os
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from shear_lit import cli
from shear_lit.commands.evaluate import evaluate
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.token_bytes import token_bytes
from shear_lit.data.tokens.tokenizer import load_tokenizer
from shear_lit.evaluation.document_loss import DocumentLosses, ratio
from shear_lit.evaluation.domain_loss import measure_domain_losses
from shear_lit.evaluation.prepared import open_validation_text
from shear_lit.evaluation.suites.processes import Processes
from shear_lit.theory.losses import IGNORED


def counted(documents, losses, targets=None, domain=(0,), bytes_of_token=None):
    """Figures of one sequence of tokens, of which losses stand one place before their tokens."""
    losses = torch.tensor([[*losses, 0.0]])
    targets = torch.tensor([[*(targets or [1] * (losses.shape[1] - 1)), IGNORED]])
    batch = {"tokens": losses, "domain": torch.tensor(domain), "document": torch.tensor([documents])}
    found = DocumentLosses(bytes_of_token)
    found.update(losses, targets, batch)
    return found.figures(0)


def test_means_over_tokens_and_over_documents_are_those_computed_by_hand():
    """Losses 1, 2, 3 of document 5 (its first token is not predicted), and 10 of document 6."""
    found = counted([5, 5, 5, 5, 6], [1.0, 2.0, 3.0, 10.0])
    assert (found.tokens, found.documents) == (4, 2)
    assert found.loss == 4.0 and found.loss_by_document == (2.0 + 10.0) / 2
    assert found.stderr_by_document == pytest.approx(np.std([2.0, 10.0], ddof=1) / math.sqrt(2))
    # Sums 6 and 10 of 3 and 1 tokens differ from 4 nats a token by -6 and 6: sqrt((36 + 36) * 2) / 4.
    assert found.stderr == pytest.approx(3.0)
    assert math.isnan(found.bits_per_byte)


def test_bits_per_byte_are_those_computed_by_hand():
    """4 nats are 4/ln 2 bits, over 2 + 3 + 0 bytes; the third token stands for no text."""
    found = counted([1, 1, 1, 2], [1.0, 1.0, 2.0], [1, 2, 0], bytes_of_token=np.array([0, 2, 3]))
    assert found.bits_per_byte == pytest.approx(4 / math.log(2) / 5)


def test_document_over_two_batches_counts_once_and_padding_nowhere():
    losses = torch.ones(2, 3)
    targets = torch.tensor([[1, 1, IGNORED]] * 2)
    batch = {
        "tokens": losses,
        "domain": torch.tensor([0, -1]),
        "document": torch.tensor([[7, 7, 7], [8, 8, 8]]),
    }
    found = DocumentLosses()
    found.update(losses, targets, batch)
    found.update(losses, targets, batch)
    assert (found.figures(0).documents, found.figures(0).tokens) == (1, 4)
    assert math.isnan(found.figures(0).stderr)


def test_error_of_a_ratio_is_the_scatter_of_a_simulation():
    """500 corpora of 80 documents of random lengths whose tokens are alike: the error, and that of lone tokens."""
    numbers = np.random.default_rng(0)
    values, errors, alone = [], [], []
    for _ in range(500):
        sizes = numbers.integers(5, 60, 80).astype(float)
        sums = sizes * (3 + 0.4 * numbers.standard_normal(80)) + np.sqrt(sizes) * numbers.standard_normal(80)
        value, error = ratio(sums, sizes)
        values.append(value)
        errors.append(error)
        alone.append(math.sqrt(1.16 / sizes.sum()))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)
    assert np.mean(alone) < 0.5 * np.std(values)


# Bytes of tokens


def written(folder, backend):
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return load_tokenizer(str(folder))


def test_bytes_of_byte_level_tokens_are_those_of_the_text(tmp_path, toy):
    tokenizer = load_tokenizer(str(toy.source()))
    sizes, text = token_bytes(tokenizer), "abc dno  pka\nab"
    assert sizes[tokenizer.backend.encode(text).ids].sum() == len(
        tokenizer.backend.decode(tokenizer.backend.encode(text).ids)
    )
    assert sizes[0] == sizes[1] == 0  # BOS and EOS


def test_bytes_of_sentencepiece_tokens_are_those_of_the_text_and_one_space(tmp_path):
    pieces = {"<s>": 0, "▁ab": 1, "é": 2, "▁": 3, "<0xC3>": 4, "<unk>": 5}
    backend = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(["<s>"])
    assert token_bytes(written(tmp_path, backend)).tolist() == [0, 3, 2, 1, 1, 5]


def test_tokens_that_lose_white_space_have_no_bytes(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert token_bytes(written(tmp_path, backend)) is None


def test_bits_per_byte_of_one_text_do_not_depend_on_how_it_is_cut():
    """A model that gives every byte the same probability has 8 bits per byte, cut into one or two bytes a token."""
    single = counted([1] * 5, [math.log(256)] * 4, [1] * 4, bytes_of_token=np.array([0, 1, 2]))
    double = counted([1] * 3, [math.log(256**2)] * 2, [2] * 2, bytes_of_token=np.array([0, 1, 2]))
    assert single.bits_per_byte == pytest.approx(8) and double.bits_per_byte == pytest.approx(8)


# The whole way


def test_losses_of_evaluate_are_those_of_ten_lines_of_transformers(toy):
    found = evaluate(str(toy.source()), str(toy.data), sequences_per_domain=4)
    store = SequenceStore(str(toy.data), "validation")
    loader = ValidationLoader(store, sequences=4, micro_batch=1)
    loader.documents_numbered = True
    model = AutoModelForCausalLM.from_pretrained(toy.source())
    sums = {}
    for batch in loader:
        with torch.inference_mode():
            logits = model(batch["tokens"]).logits[0, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits, batch["tokens"][0, 1:], reduction="none")
        for loss, document in zip(losses.tolist(), batch["document"][0, 1:].tolist(), strict=True):
            row = sums.setdefault((int(batch["domain"]), document), [])
            row.append(loss)
    for number, name in enumerate(store.domains):
        rows = [row for (domain, _), row in sums.items() if domain == number]
        figures = found.figures[name]
        assert found.losses[name] == pytest.approx(sum(map(sum, rows)) / sum(map(len, rows)), abs=1e-4)
        assert figures.loss == pytest.approx(found.losses[name], rel=1e-12)
        assert figures.documents == len(rows) and figures.tokens == sum(map(len, rows))
        assert figures.loss_by_document == pytest.approx(np.mean([np.mean(row) for row in rows]), abs=1e-4)
        assert figures.stderr > 0 and figures.bits_per_byte > 0
    assert "by document" in str(found)


def evaluated(model, data):
    """What one of several processes finds."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"]
    found = evaluate(model, data, sequences_per_domain=5, micro_batch=2)
    return None if found is None else {name: asdict(each) for name, each in found.figures.items()}


def test_two_processes_measure_what_one_measures(toy):
    """Their parts, one after the other, put together; two processes of gloo do it in ``make scores``."""
    model, data = str(toy.source()), str(toy.data)
    network, parts = AutoModelForCausalLM.from_pretrained(model), []
    for rank in range(2):
        text = open_validation_text(
            data, model, sequences_per_domain=5, micro_batch=2, processes=Processes(rank=rank, size=2)
        )
        documents = DocumentLosses(token_bytes(load_tokenizer(model)))
        measure_domain_losses(network, text.batches, text.domains, documents)
        parts.append(documents.sums())
    assert all(parts) and parts[0].keys() != parts[1].keys()
    documents.take(parts)
    for number, figures in enumerate(evaluate(model, data, 5, 2).figures.values()):
        assert asdict(documents.figures(number)) == pytest.approx(asdict(figures), rel=1e-9, nan_ok=True)


def test_losses_of_validate_are_those_of_evaluate_also_by_document(toy, tmp_path, capfd):
    flags = ["--data.validation_sequences=5", "--data.validation_micro_batch=2"]
    cli.main(["validate", *toy.arguments("pretrain", tmp_path / "run")[1:], *flags])
    said = capfd.readouterr().out
    for name, figures in evaluate(str(toy.source()), str(toy.data), 5, 2).figures.items():
        (line,) = re.findall(rf"^{name} .*$", said, re.MULTILINE)
        loss, error, documents, own, own_error, *bits = map(float, re.findall(r"\d+\.?\d*", line))
        assert documents == figures.documents
        found = [figures.loss, figures.stderr, figures.loss_by_document, figures.stderr_by_document]
        found += [figures.bits_per_byte, figures.bits_per_byte_stderr]
        assert [loss, error, own, own_error, *bits] == pytest.approx(found, abs=1e-4)


def test_numbers_of_documents_follow_where_they_begin():
    from shear_lit.data.prepared.chunks import SequenceDocuments

    starts = np.array([0, 3, 9, 10])
    found = SequenceDocuments.of_stream(starts, 3, 4)
    assert [found.numbers(row, 4).tolist() for row in range(3)] == [[1, 1, 1, 2], [2, 2, 2, 2], [2, 3, 4, 4]]
