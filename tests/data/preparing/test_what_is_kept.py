"""Tokens, bounds and splits of texts that are made to go wrong, from the file to the packed sequence."""

import json
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import decoders

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.reporting import summary
from shear_lit.data.preparing.settings import SplitShares
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.text.documents import folded
from shear_lit.data.tokens.tokenizer import load_tokenizer

TEXTS = [f"document number {number} says {number * number}" for number in range(200)]
ALL = SplitShares(prune=1.0, pretrain=0.0, validation=0.0)


def documents(options, split="prune", domain=0):
    """The documents of a split as text, as their bounds tell them apart; and the tokens of each."""
    store = SequenceStore(options.output, split)
    loader = ValidationLoader(store, sequences=10**6, micro_batch=1, documents_apart=True)
    tokens, begins = [], []
    for batch in loader:
        if int(batch["domain"][0]) == domain:
            begins += [len(tokens) + int(p) for p in np.flatnonzero(batch["positions"][0].numpy() == 0)]
            tokens += batch["tokens"][0].tolist()
    backend = load_tokenizer(options.tokenizer).backend
    backend.decoder = decoders.ByteLevel()
    parts = [tokens[a:b] for a, b in zip(begins, [*begins[1:], len(tokens)], strict=True)]
    parts = [part for part in parts if any(part)]  # padding is made of zeros
    return [backend.decode(part, skip_special_tokens=False) for part in parts], parts


NAMES = [f"{text} <s> and</s>more </s><s> {text[::-1]}" for text in TEXTS]


def test_a_special_token_s_name_in_a_text_is_text(settings, write_jsonl):
    """One sequence for each document, so that its bounds are those of the sequence and nothing is cut."""
    options = settings(
        {"web": write_jsonl("web.jsonl", NAMES)}, shares=ALL, packing="best_fit", sequence_length=256
    )
    manifest = prepare(options)
    texts, tokens = documents(options)
    eos, bos = manifest.tokenizer.eos_id, manifest.tokenizer.bos_id
    whole = [part for part in tokens if part.count(eos) and len(part) > 20]
    assert manifest.split_special_tokens is True and len(whole) == 200
    assert all(part.count(eos) == 1 and bos not in part for part in whole)
    assert {text[: -len("</s>")] for text in texts if text.endswith("</s>")} == set(NAMES)


def test_a_key_makes_them_special_tokens_and_the_bounds_stay(settings, write_jsonl):
    """The twin: ids tell 600 ends of text, the bounds 200 documents."""
    options = settings(
        {"web": write_jsonl("web.jsonl", NAMES)},
        shares=ALL,
        packing="best_fit",
        sequence_length=256,
        split_special_tokens=False,
    )
    manifest = prepare(options)
    _, tokens = documents(options)
    whole = [part for part in tokens if len(part) > 20]
    assert manifest.split_special_tokens is False and len(whole) == 200
    assert sum(part.count(manifest.tokenizer.eos_id) for part in whole) == 3 * 200


def twins(text):
    """Texts that a reader takes for the same."""
    accented = text.replace("e", "\u00e9").replace("fi", "\ufb01")
    return [
        accented,
        unicodedata.normalize("NFD", accented),
        unicodedata.normalize("NFKC", accented),
        "\ufeff" + accented,
        accented.replace(" ", "\u00a0 \t"),
        accented.replace("o", "o\u200b"),
        accented.replace("u", "u\0"),
        accented.upper(),
        accented.title() + "\n",
    ]


def test_no_document_is_in_two_splits_however_it_is_written(settings, write_jsonl):
    planted = [twin for text in TEXTS[:60] for twin in twins(f"{text} find me")]
    files = [write_jsonl(f"{n}.jsonl", planted[n::4]) for n in range(4)]
    shares = SplitShares(prune=0.4, pretrain=0.3, validation=0.3)
    options = settings({"a": files[:2], "b": [*files[2:], write_jsonl("c.jsonl", TEXTS)]}, shares=shares)
    manifest = prepare(options)
    kept = sum(domain.documents for domain in manifest.domains.values())
    assert kept == len({folded(text) for text in planted + TEXTS}) == 60 + 200
    assert sum(domain.duplicates for domain in manifest.domains.values()) == 60 * 8


def test_best_fit_cuts_no_document_and_says_what_padding_it_took(settings, write_jsonl):
    options = settings(
        {"web": write_jsonl("web.jsonl", TEXTS)}, shares=ALL, packing="best_fit", sequence_length=64
    )
    manifest = prepare(options)
    record = manifest.domains["web"].splits["prune"]
    texts, _ = documents(options)
    assert sorted(t.removesuffix("</s>") for t in texts if t.endswith("</s>")) == sorted(TEXTS)
    assert record.tail_tokens == 0 and record.padding == record.sequences * 64 - record.tokens
    page = (Path(options.output) / "README.md").read_text()
    assert f"| {record.padding / (record.sequences * 64):.2%} |" in page and "best_fit" in page


def test_an_edit_of_equal_length_and_time_is_noticed(settings, write_jsonl):
    path = write_jsonl("web.jsonl", TEXTS)
    options = settings({"web": path})
    prepare(options)
    status = Path(path).stat()
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"number 150 says", b"member 150 says"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"domains\.web='.*web\.jsonl' has changed since it was prepared"):
        prepare(options)


def test_another_file_of_equal_size_and_beginning_is_new(settings, write_jsonl, tmp_path):
    options = settings({"web": write_jsonl("one.jsonl", TEXTS)})
    prepare(options)
    content = Path(options.domains["web"]).read_bytes()
    (tmp_path / "two.jsonl").write_bytes(content.replace(b"number 150 says", b"member 150 says"))
    manifest = prepare(replace(options, domains={"web": str(tmp_path / "two.jsonl")}))
    assert manifest.domains["web"].documents == 201 and manifest.domains["web"].duplicates == 199
    (tmp_path / "three.jsonl").write_bytes(content)
    assert prepare(replace(options, domains={"web": str(tmp_path / "three.jsonl")})) == manifest


def test_a_copy_in_another_form_is_no_new_input(settings, write_jsonl, tmp_path):
    """What is compared is the text, not the file."""
    options = settings({"web": write_jsonl("one.jsonl", TEXTS)})
    manifest = prepare(options)
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(TEXTS)]
    (tmp_path / "two.jsonl").write_text("\r\n".join(lines))
    assert prepare(replace(options, domains={"web": str(tmp_path / "two.jsonl")})) == manifest


def test_tokens_and_text_make_one_data_set(settings, write_jsonl, tokenizer_directory, tmp_path):
    backend = load_tokenizer(str(tokenizer_directory)).backend
    ids = [[*backend.encode(f"tokenised: {text}").ids, 1] for text in TEXTS] + [[5, 999, 1]]
    np.array([token for one in ids for token in one], dtype="<u2").tofile(tmp_path / "tokens.bin")
    options = settings(
        {"tokens": f"uint16:{tmp_path / 'tokens.bin'}", "web": write_jsonl("web.jsonl", TEXTS)},
        shares=ALL,
        packing="best_fit",
        sequence_length=64,
    )
    manifest = prepare(options)
    texts, _ = documents(options, domain=0)
    assert sorted(t.removesuffix("</s>") for t in texts if t.endswith("</s>")) == sorted(
        f"tokenised: {text}" for text in TEXTS
    )
    assert manifest.domains["tokens"].rejected == {"token ids beyond the tokenizer's 289": 1}


def test_a_run_does_not_read_its_own_output(settings, tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:03}.md").write_text(text)
    options = settings({"web": f"{tmp_path}/**/*.md"})
    manifest = prepare(options)
    assert (Path(options.output) / "README.md").is_file() and manifest.domains["web"].inputs == 200
    assert prepare(options) == manifest


def test_a_line_that_cannot_be_used_is_part_of_what_a_file_holds(settings, write_jsonl):
    options = settings({"web": write_jsonl("web.jsonl", [*TEXTS, b"{"])})
    manifest = prepare(options)
    assert prepare(options) == manifest
    write_jsonl("web.jsonl", TEXTS)
    with pytest.raises(DataError, match="has changed since it was prepared"):
        prepare(options)


def test_the_table_tells_the_share_of_each_domain_in_a_split(settings, write_jsonl):
    files = {
        "large": write_jsonl("a.jsonl", TEXTS),
        "small": write_jsonl("b.jsonl", [t[::-1] for t in TEXTS[:90]]),
    }
    manifest = prepare(settings(files))
    for split in ("prune", "pretrain", "validation"):
        tokens = {name: domain.splits[split].tokens for name, domain in manifest.domains.items()}
        for name, own in tokens.items():
            (line,) = [x for x in summary(manifest).splitlines() if x.split()[:2] == [name, split]]
            assert line.split()[5] == f"{own / sum(tokens.values()):.2%}"


def test_chunks_have_room_for_the_most_padding(settings):
    """Offsets in a chunk have 32 bits, and sequences that are half padding take twice what their text does."""
    settings({"web": "a.jsonl"}, chunk_bytes=1 << 31, sequence_length=4096)
    settings({"web": "a.jsonl"}, chunk_bytes=1 << 30, sequence_length=4096, packing="best_fit")
    with pytest.raises(
        DataError, match=rf"chunk_bytes={(1 << 30) + 1} is not in range: use 1 to 1,073,741,824"
    ):
        settings({"web": "a.jsonl"}, chunk_bytes=(1 << 30) + 1, sequence_length=4096, packing="best_fit")
