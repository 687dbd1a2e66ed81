"""Adding files to prepared data: old documents stay where they are, and nothing is there twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.selecting import split_of
from shear_lit.data.preparing.settings import SplitShares, SplitTokens
from shear_lit.data.serving.store import SequenceStore
from tests.trees import tree

TEXTS = [f"document number {number} says {number * number}" for number in range(300)]


def texts_of(output, tokenizer_directory, split, domain=0):
    store = SequenceStore(output, split)
    tokens = [t for s in range(store.sequences(domain)) for t in store[domain, s]["tokens"][0].tolist()]
    return AutoTokenizer.from_pretrained(tokenizer_directory).decode(tokens).split("</s>")[:-1]


@pytest.fixture
def first(settings, write_jsonl):
    """Settings of a first run, which has been made."""
    options = settings({"web": write_jsonl("one.jsonl", TEXTS[:150])}, chunk_bytes=16 * 2 * 9)
    prepare(options)
    return options


def added(options, *files, **more):
    return replace(options, domains={"web": [options.domains["web"], *files], **more})


def test_adding_a_file_leaves_old_chunks_alone_and_old_documents_in_their_splits(
    first, write_jsonl, tokenizer_directory
):
    before, old = tree(first.output), read_manifest(first.output)
    again = [text.upper() for text in TEXTS[:50]]
    manifest = prepare(added(first, write_jsonl("two.jsonl", again + TEXTS[150:])))
    chunks = {
        name: found for name, found in before.items() if name.endswith(".bin") and ".ledger" not in name
    }
    assert chunks.items() <= tree(first.output).items() and manifest == read_manifest(first.output)
    web = manifest.domains["web"]
    assert (web.documents, web.duplicates, web.inputs, manifest.runs) == (300, 50, 2, 2)
    assert web.bounds == old.domains["web"].bounds and manifest.fingerprint != old.fingerprint
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    for split, record in web.splits.items():
        found = texts_of(first.output, tokenizer_directory, split)
        own = [text for text in TEXTS if split_of(first.shares, text) == split]
        wanted = [tokenizer.decode(tokenizer(text)["input_ids"]) for text in own]
        assert [text.strip() for text in found] == wanted[: len(found)]
        assert len(found) >= len(wanted) - 2  # one tail is left, of less than 16 tokens
        assert (
            record.chunks[: len(old.domains["web"].splits[split].chunks)]
            == old.domains["web"].splits[split].chunks
        )
        assert record.tokens == record.sequences * 16 + record.tail_tokens and record.tail_tokens < 16


def test_adding_to_data_packs_what_one_run_would_have_packed(
    first, write_jsonl, tmp_path, tokenizer_directory
):
    two = write_jsonl("two.jsonl", TEXTS[150:])
    prepare(added(first, two))
    prepare(replace(added(first, two), output=str(tmp_path / "at-once")))
    for split in ("prune", "pretrain", "validation"):
        stores = [SequenceStore(output, split) for output in (first.output, tmp_path / "at-once")]
        tokens = [[s[0, n]["tokens"].tolist() for n in range(s.sequences(0))] for s in stores]
        assert tokens[0] == tokens[1]
    ledgers = [Path(output) / ".ledger" for output in (first.output, tmp_path / "at-once")]
    assert (ledgers[0] / "2" / "documents.bin").read_bytes() == (
        ledgers[1] / "1" / "documents.bin"
    ).read_bytes()
    assert (ledgers[0] / "2" / "tails.json").read_bytes() == (ledgers[1] / "1" / "tails.json").read_bytes()


def test_running_again_with_nothing_new_changes_nothing(first):
    before = tree(first.output)
    assert prepare(first) == read_manifest(first.output)
    assert tree(first.output) == before and not Path(first.output + ".partial").exists()


def test_only_the_new_files_need_to_be_named_and_a_domain_can_be_new(first, write_jsonl):
    other = write_jsonl("other.jsonl", TEXTS[100:150] + [text[::-1] for text in TEXTS])
    manifest = prepare(replace(first, domains={"backwards": other}))
    assert tuple(manifest.domains) == ("backwards", "web")
    assert (manifest.domains["backwards"].documents, manifest.domains["backwards"].duplicates) == (300, 50)
    assert read_manifest(first.output) == manifest


def test_bounds_found_from_tokens_are_frozen(settings, write_jsonl):
    options = settings({"web": write_jsonl("one.jsonl", TEXTS[:150])}, tokens=SplitTokens(validation=700))
    old = prepare(options).domains["web"]
    new = prepare(added(options, write_jsonl("two.jsonl", TEXTS[150:]))).domains["web"]
    assert (
        new.bounds == old.bounds and new.splits["validation"].tokens > old.splits["validation"].tokens >= 700
    )


def test_a_file_that_has_changed_is_refused_and_one_that_was_moved_is_known(first, tmp_path):
    moved = shutil.move(first.domains["web"], tmp_path / "moved.jsonl")
    before = tree(first.output)
    prepare(replace(first, domains={"web": str(moved)}))
    assert tree(first.output) == before
    with Path(first.domains["web"]).open("w") as file:
        file.write('{"text": "another text"}\n')
    with pytest.raises(DataError, match=r"domains\.web=.*one\.jsonl' has changed since it was prepared"):
        prepare(first)
    assert tree(first.output) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sequence_length", 32),
        ("append_eos", False),
        ("prepend_bos", True),
        ("text_field", "body"),
        ("shares", SplitShares(prune=0.5, pretrain=0.3, validation=0.2)),
        ("tokens", SplitTokens(validation=100)),
    ],
)
def test_adding_with_other_settings_is_refused_by_name(first, write_jsonl, key, value):
    before = tree(first.output)
    options = replace(added(first, write_jsonl("two.jsonl", TEXTS[150:])), **{key: value})
    with pytest.raises(DataError, match=rf"^{key}=.*was prepared with .*Use {key}="):
        prepare(options)
    assert tree(first.output) == before


def test_adding_with_another_tokenizer_is_refused(first, write_jsonl, tmp_path, tokenizer_directory):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(tmp_path / "another")
    options = added(first, write_jsonl("two.jsonl", TEXTS[150:]))
    with pytest.raises(DataError, match=r"tokenizer=.*is not the one that made"):
        prepare(replace(options, tokenizer=str(tmp_path / "another")))


def test_data_without_a_ledger_can_be_trained_on_but_not_added_to(first, write_jsonl):
    manifest = Path(first.output) / "manifest.json"
    content = json.loads(manifest.read_text()) | {"format": 1}
    for key in ("text_field", "shares", "tokens", "runs", "packing", "split_special_tokens", "ledger"):
        del content[key]
    for domain in content["domains"].values():
        for key in ("duplicates", "unused", "bounds", "inputs", "bytes", "inputs_fingerprint"):
            del domain[key]
        for split in domain["splits"].values():
            del split["duplicates"], split["padding"]
            for chunk in split["chunks"]:
                del chunk["documents"], chunk["loss_mask"]
    manifest.write_text(json.dumps(content))
    assert read_manifest(first.output).domains["web"].documents == 150
    with pytest.raises(DataError, match=r"without a ledger.*another directory"):
        prepare(added(first, write_jsonl("two.jsonl", TEXTS[150:])))


@pytest.mark.parametrize("file", ["documents.bin", "tails.json", "inputs.jsonl"])
def test_a_damaged_ledger_is_named(first, write_jsonl, file):
    path = Path(first.output) / ".ledger" / "1" / file
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"its ledger .* is damaged"):
        prepare(added(first, write_jsonl("two.jsonl", TEXTS[150:])))


def test_too_many_unusable_documents_among_the_new_leave_the_old_data(first, write_jsonl):
    before = tree(first.output)
    with pytest.raises(DataError, match="max_rejected_fraction"):
        prepare(added(first, write_jsonl("two.jsonl", [*TEXTS[150:160], b"{"])))
    assert tree(first.output) == before
