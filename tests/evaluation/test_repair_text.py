"""The text of a repair: its parts have the sizes asked for, and processes share it."""

import numpy as np
import pytest
import torch

from shear_lit.data.errors import DataError
from shear_lit.data.serving.remote import RemoteSettings, read_prepared
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.scripts import OtherScripts
from shear_lit.evaluation import repair_text as module
from shear_lit.evaluation.repair_text import data_batches, open_repair_text, repair_text
from shear_lit.models.huggingface import read_config, read_model
from shear_lit.models.registry import family_of
from shear_lit.pruning.settings import RepairSettings

CPU = torch.device("cpu")
TOKENS = 1600
TOGETHER = 3
"""Sequences that are generated at once: fewer than there are."""
OTHERS = OtherScripts(
    begins=np.where(np.isin(np.arange(300), [40, 250]), 0.5, 0.0), writes=np.arange(300) % 10 == 0
)


@pytest.fixture(scope="module")
def source(toy):
    return read_model(str(toy.source()), dtype=torch.float32).eval()


@pytest.fixture(autouse=True)
def few_together(monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", TOGETHER)


@pytest.fixture(params=[None, OTHERS], ids=["free", "scripts"])
def scripts(request, monkeypatch):
    """A vocabulary without other scripts, or with some."""
    monkeypatch.setattr(module, "other_scripts", lambda *_: request.param)
    return request.param


def text_of(toy, sizes, *, rank=0, world=1):
    manifest = read_prepared(str(toy.data))
    store = SequenceStore(str(toy.data), "prune", manifest)
    batches = data_batches(sizes, manifest, "prune")
    loader = ValidationLoader(store, **batches, rank=rank, world_size=world)
    return repair_text(sizes, manifest, loader, str(toy.source()), CPU), manifest


def rows_of(passages):
    """Sequences that count, by number."""
    found = {}
    for passage in passages:
        for place, row in enumerate(passage.inputs["input_ids"]):
            if passage.counts and (passage.counted is None or passage.counted[place].any()):
                found[passage.number + place] = row.tolist()
    return found


def test_source_writes_the_fraction_that_is_asked_for_behind_the_text(toy, source, scripts):
    sizes = RepairSettings(tokens=TOKENS, generated_fraction=0.25)
    text, manifest = text_of(toy, sizes)
    passages = [*text.passages(source)]
    own = [passage for passage in passages if passage.number >= text.data.planned]
    assert sum(passage.inputs["input_ids"].numel() for passage in own) == text.generated_tokens
    assert 0 <= text.generated_tokens - TOKENS / 4 < manifest.sequence_length + module.SHORT
    assert len(rows_of(passages)) == text.data.planned + text.generated_sequences
    assert text.data.tokens == text.data.planned * manifest.sequence_length
    assert all(int(passage.inputs["input_ids"].max()) < manifest.tokenizer.vocabulary for passage in own)
    assert text.generated_sequences > TOGETHER  # more than are generated at once
    begun = [row[0] for row in rows_of(own).values()]
    rest = len(begun) - TOGETHER
    assert begun[TOGETHER:] != begun[:rest]  # those that are generated later are others


def test_an_eighth_of_what_is_generated_is_in_other_scripts(toy, source, monkeypatch):
    monkeypatch.setattr(module, "other_scripts", lambda *_: OTHERS)
    text, manifest = text_of(toy, RepairSettings(tokens=TOKENS, generated_fraction=0.25))
    rows = [row for number, row in rows_of(text.passages(source)).items() if number >= text.data.planned]
    others = [row for row in rows if len(row) == 16]
    assert rows[-len(others) :] == others and len(others) == 4  # 400 / 8 / 16
    assert {row[0] for row in others} == {40, 250}
    assert all(token % 10 == 0 for row in others for token in row)
    free = rows[: -len(others)]
    assert len(free) == 15 and {len(row) for row in free} == {manifest.sequence_length}  # 350 / 24
    assert not any(all(token % 10 == 0 for token in row) for row in free)


def test_scripts_are_those_of_the_tokenizer_beside_the_source(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "other_scripts", lambda tokenizer, size: seen.append((tokenizer, size)) or OTHERS
    )
    sizes = RepairSettings(tokens=TOKENS, generated_fraction=0.25)
    text, manifest = text_of(toy, sizes)
    assert [writing.scripts for writing in text.writings] == [None, OTHERS]
    [(tokenizer, size)] = seen
    assert tokenizer.is_of(manifest.tokenizer.fingerprint) and size == manifest.tokenizer.vocabulary
    monkeypatch.setattr(module, "has_tokenizer", lambda _: False)
    assert [writing.sequences for writing in text_of(toy, sizes)[0].writings] == [17, 0]


def test_processes_share_what_one_reads_and_generates(toy, source, monkeypatch):
    monkeypatch.setattr(module, "other_scripts", lambda *_: OTHERS)
    sizes = RepairSettings(tokens=TOKENS, generated_fraction=0.25)
    one, *both = (text_of(toy, sizes, rank=rank, world=world)[0] for rank, world in ((0, 1), (0, 2), (1, 2)))
    whole, *parts = (rows_of(text.passages(source)) for text in (one, *both))
    assert parts[0] | parts[1] == whole
    assert not parts[0].keys() & parts[1].keys()
    own = [number for number in whole if number >= one.data.planned]
    assert all(any(number in part for number in own) for part in parts)


def test_fraction_of_0_generates_nothing(toy):
    text, _ = text_of(toy, RepairSettings(tokens=400, generated_fraction=0.0))
    assert text.generated_tokens == 0
    assert rows_of(text.passages(None)).keys() == set(range(text.data.planned))


def test_what_is_generated_counts_towards_what_a_repair_needs(toy, monkeypatch):
    monkeypatch.setattr(module, "least_tokens", lambda *_: 100)
    family = family_of(read_config(str(toy.source())))

    def opened(fraction):
        return open_repair_text(
            str(toy.data),
            str(toy.source()),
            family,
            family.shape,
            split="prune",
            sizes=RepairSettings(tokens=72, generated_fraction=fraction),
            device=CPU,
            cross_document_attention=True,
            remote=RemoteSettings(),
        )[0]

    text = opened(0.5)
    assert (text.data.planned, text.generated_sequences, text.generated_tokens) == (3, 2, 48)
    with pytest.raises(DataError, match="72 tokens of the prune split"):
        opened(0.0)
