"""A tiny tokenizer, and prepared data whose tokens say which sequence they are."""

import json
import os

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from shear_lit.data.prepared.chunks import SequenceDocuments, write_chunk, write_index
from shear_lit.data.prepared.manifest import (
    DomainRecord,
    Manifest,
    SplitRecord,
    TokenizerRecord,
    write_manifest,
)
from shear_lit.data.preparing.prepare import PrepareSettings
from shear_lit.data.preparing.settings import SplitShares

LENGTH = 4
RECORD = TokenizerRecord(name="none", fingerprint="f" * 64, vocabulary=1000, bos_id=None, eos_id=0)


def write_split(folder, tokens, *, per_chunk=5, starts=None, ends=None):
    """Write sequences, [sequences, length], as a split; a document begins with each, or at ``starts`` of each."""
    sequences, length = tokens.shape
    starts = [[0]] * sequences if starts is None else starts
    ends = [length] * sequences if ends is None else ends
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for number, first in enumerate(range(0, sequences, per_chunk)):
        part = slice(first, first + per_chunk)
        inside = starts[part]
        documents = SequenceDocuments(
            np.cumsum([0, *map(len, inside)]),
            np.array(ends[part]),
            np.array([s for one in inside for s in one]),
        )
        chunks.append(write_chunk(folder, number, [tokens[part].reshape(-1)], documents, length))
    write_index(folder, chunks, length=length, per_chunk=per_chunk, token_type=str(tokens.dtype))
    return SplitRecord(
        documents=sequences,
        tokens=tokens.size,
        tail_tokens=0,
        chunks=tuple(chunks),
        padding=int(tokens.size - sum(ends)),
    )


def write_prepared(
    directory,
    sizes,
    *,
    splits=("prune", "pretrain", "validation"),
    per_chunk=5,
    length=LENGTH,
    token_type="uint16",
):
    """Write data in which sequence s of domain d is the tokens [d, s, 0, …]."""
    domains = {}
    for index, (name, sequences) in enumerate(sizes.items()):
        records = {}
        tokens = np.zeros((sequences, length), dtype=token_type)
        tokens[:, 0], tokens[:, 1] = index, np.arange(sequences)
        for split in splits:
            records[split] = write_split(directory / name / split, tokens, per_chunk=per_chunk)
        domains[name] = DomainRecord(documents=sequences * len(splits), rejected={}, splits=records)
    manifest = Manifest(
        tokenizer=RECORD,
        sequence_length=length,
        token_type=token_type,
        prepend_bos=False,
        append_eos=False,
        domains=domains,
        fingerprint="0" * 64,
    )
    write_manifest(directory, manifest)
    return directory


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Three domains of 13, 40 and 22 sequences in each split."""
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", {"a": 13, "b": 40, "c": 22})


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory):
    """A byte-level BPE tokenizer with BOS and EOS, as a Hugging Face directory."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox", "jumps over the lazy dog"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    directory = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(directory)
    return directory


@pytest.fixture
def write_jsonl(tmp_path):
    """Write texts (or raw lines, as bytes) to a file, and give its path."""

    def write(name, texts):
        lines = [t if isinstance(t, bytes) else json.dumps({"text": t}).encode() for t in texts]
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
        return str(tmp_path / name)

    return write


@pytest.fixture
def settings(tmp_path, tokenizer_directory):
    """Make settings for small texts: the domains, and what is to be different."""

    def make(domains, **changes):
        defaults = {
            "domains": domains,
            "tokenizer": str(tokenizer_directory),
            "output": str(tmp_path / "out"),
            "sequence_length": 16,
            "shares": SplitShares(prune=0.4, pretrain=0.4, validation=0.2),
            "workers": 2,
        }
        return PrepareSettings(**(defaults | changes))

    return make


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Do not wait for the disk: no power fails in these tests."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
