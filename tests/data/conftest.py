"""A tiny tokenizer, and prepared data whose tokens say which sequence they are."""

import json
import os

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from shear_lit.data.prepared.manifest import DomainRecord, Manifest, TokenizerRecord, write_manifest
from shear_lit.data.preparing.packing import SplitWriter
from shear_lit.data.preparing.prepare import PrepareSettings
from shear_lit.data.preparing.splits import SplitShares

LENGTH = 4
RECORD = TokenizerRecord(name="none", fingerprint="f" * 64, vocabulary=1000, bos_id=None, eos_id=0)


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
        for split in splits:
            writer = SplitWriter(
                directory / name / split,
                sequence_length=length,
                token_type=token_type,
                chunk_bytes=per_chunk * length * (2 if token_type == "uint16" else 4),
            )
            for sequence in range(sequences):
                writer.add([index, sequence] + [0] * (length - 2))
            records[split] = writer.finish()
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
