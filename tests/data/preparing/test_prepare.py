"""Raw text to prepared data: every document in one split, every token in order, nothing half-written."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing import checks as module
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.reporting import summary
from shear_lit.data.preparing.selecting import Marks, split_of
from shear_lit.data.preparing.settings import SplitShares, SplitTokens
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.tokenizer import TextTokenizer, load_tokenizer
from tests.trees import tree

HALVES = SplitShares(prune=0.4, pretrain=0.4, validation=0.2)
TEXTS = [f"document number {number} says {number * number}" for number in range(200)]


def stored_tokens(output, split, domain=0):
    store = SequenceStore(output, split)
    return [t for s in range(store.sequences(domain)) for t in store[domain, s]["tokens"][0].tolist()]


def stored_texts(output, tokenizer_directory, split, domain=0):
    text = AutoTokenizer.from_pretrained(tokenizer_directory).decode(stored_tokens(output, split, domain))
    return [part for part in text.split("</s>") if part]


def test_every_document_is_in_one_split_with_its_tokens_in_order(settings, write_jsonl, tokenizer_directory):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)})
    manifest = prepare(options)
    record = manifest.domains["web"]
    assert record.documents == 200 == sum(split.documents for split in record.splits.values())
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    for split, wanted in record.splits.items():
        documents = [text for text in TEXTS if split_of(HALVES, text) == split]
        tokens = [t for text in documents for t in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
        assert (len(documents), len(tokens)) == (wanted.documents, wanted.tokens)
        assert wanted.tail_tokens == len(tokens) % 16 and wanted.sequences == len(tokens) // 16
        assert stored_tokens(options.output, split) == tokens[: wanted.sequences * 16]


def planted(texts):
    """The texts, then each in other letters and with other white space."""
    return texts + [text.upper().replace(" ", "  \t") + "\n" for text in texts]


def all_texts(output, tokenizer_directory, domains):
    """The documents of all domains by split, folded, without the last, of which a part may be dropped."""
    return {
        split: [
            " ".join(text.casefold().split())
            for domain in range(domains)
            for text in stored_texts(output, tokenizer_directory, split, domain)[:-1]
        ]
        for split in ("prune", "pretrain", "validation")
    }


@pytest.mark.parametrize("unit_bytes", [8 << 20, 500])
def test_no_document_is_in_two_splits_or_twice_in_one(
    settings, write_jsonl, tokenizer_directory, tmp_path, unit_bytes
):
    """Planted in a file, in another file, and in another domain, whose splits have other bounds."""
    files = [write_jsonl("a.jsonl", planted(TEXTS[:120])), write_jsonl("b.jsonl", TEXTS[60:200] + TEXTS[:30])]
    other = write_jsonl("c.jsonl", planted(TEXTS)[100:] + [f"only here: {n} and {n}" for n in range(200)])
    tokens = SplitTokens(validation=1200)
    options = settings({"one": files, "two": other}, tokens=tokens, unit_bytes=unit_bytes)
    manifest = prepare(options)
    assert manifest.domains["one"].bounds != manifest.domains["two"].bounds
    texts = all_texts(options.output, tokenizer_directory, 2)
    together = [text for part in texts.values() for text in part]
    assert len(together) == len(set(together)) and 380 <= len(together) <= 400
    one, two = manifest.domains["one"], manifest.domains["two"]
    assert (one.documents, one.duplicates) == (200, 120 + 60 + 30)
    assert (two.documents, two.duplicates) == (200, 300)
    for domain in (one, two):
        assert sum(split.duplicates for split in domain.splits.values()) == domain.duplicates


def test_without_dropping_them_duplicates_would_be_in_two_splits(
    settings, write_jsonl, tokenizer_directory, monkeypatch
):
    """The twin: two domains have other bounds, so a text of both can land in two splits."""
    monkeypatch.setattr(Marks, "of", lambda self, spool: np.zeros(len(original(self, spool)), np.uint8))
    files = write_jsonl("a.jsonl", TEXTS), write_jsonl("b.jsonl", TEXTS + TEXTS[:100])
    options = settings(dict(zip(("one", "two"), files, strict=True)), tokens=SplitTokens(validation=1200))
    (Path(files[1])).write_bytes(Path(files[1]).read_bytes() + b'{"text": "more and more and more"}\n' * 400)
    prepare(options)
    texts = all_texts(options.output, tokenizer_directory, 2)
    assert set(texts["validation"]) & (set(texts["prune"]) | set(texts["pretrain"]))


original = Marks.of


def test_many_files_give_what_one_file_gives(settings, write_jsonl, tmp_path):
    one = write_jsonl("all.jsonl", TEXTS)
    for part in range(4):
        write_jsonl(f"part-{part}.jsonl", TEXTS[part * 50 : part * 50 + 50])
    parts = [str(tmp_path / f"part-{part}.jsonl") for part in range(4)]
    manifests = [
        prepare(settings({"web": files}, output=str(tmp_path / f"out-{index}")))
        for index, files in enumerate((one, str(tmp_path / "part-*.jsonl"), parts))
    ]
    splits = [manifest.domains["web"].splits for manifest in manifests]
    assert splits[0] == splits[1] == splits[2]
    assert tree(tmp_path / "out-1") == tree(tmp_path / "out-2")
    assert tree(tmp_path / "out-0" / "web") == tree(tmp_path / "out-1" / "web")
    assert [m.domains["web"].inputs for m in manifests] == [1, 4, 4]


def test_chunks_hold_whole_sequences_and_lose_none(settings, write_jsonl):
    """litdata drops what a chunk holds beyond whole sequences: so there must be nothing."""
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, chunk_bytes=16 * 2 * 7 + 5)
    manifest = prepare(options)
    chunks = manifest.domains["web"].splits["prune"].chunks
    assert len(chunks) > 5 and {chunk.sequences for chunk in chunks[:-1]} == {7}
    whole = settings({"web": options.domains["web"]}, output=options.output + "-whole")
    prepare(whole)
    assert stored_tokens(options.output, "prune") == stored_tokens(whole.output, "prune")


def test_bos_and_eos_are_added_only_as_asked(settings, write_jsonl, tokenizer_directory):
    files = write_jsonl("web.jsonl", TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    found = {}
    for bos, eos in ((True, False), (False, True), (False, False)):
        options = settings({"web": files}, prepend_bos=bos, append_eos=eos, output=files + f"-{bos}-{eos}")
        prepare(options)
        counts = Counter(stored_tokens(options.output, "prune"))
        found[bos, eos] = (counts[tokenizer.bos_token_id] > 0, counts[tokenizer.eos_token_id] > 0)
    assert found == {
        (True, False): (True, False),
        (False, True): (False, True),
        (False, False): (False, False),
    }


def test_unusable_lines_are_counted_and_reported_with_file_and_line(settings, write_jsonl, caplog):
    bad = [b'{"text": "cut off', b'{"text": "\xff\xfe"}', b'{"text": 3}', b'{"other": "x"}', b"[1]"]
    bad += [b'{"text": "  \\n "}', b'{"text": "\\ud800"}', b""]
    files = write_jsonl("web.jsonl", [*TEXTS[:100], *bad, *TEXTS[100:]])
    manifest = prepare(settings({"web": files}, max_rejected_fraction=0.05))
    assert manifest.domains["web"].documents == 200
    assert manifest.domains["web"].rejected == {
        "empty document": 1,
        "invalid UTF-8": 2,
        "malformed JSON": 1,
        "no text in field 'text'": 3,
    }
    assert f"{files}:101: malformed JSON" in caplog.text and f"{files}:102: invalid UTF-8" in caplog.text


@pytest.mark.parametrize("unit_bytes", [8 << 20, 700])
def test_too_many_unusable_lines_are_refused_and_what_was_done_is_kept(
    settings, write_jsonl, tmp_path, unit_bytes, caplog
):
    options = settings(
        {"web": write_jsonl("web.jsonl", [*TEXTS, b"{", b"", b"{", b"{"])}, unit_bytes=unit_bytes
    )
    with pytest.raises(
        DataError, match=r"max_rejected_fraction=0\.01: 3 of 203 .*web\.jsonl:201: malformed JSON"
    ):
        prepare(options)
    assert "web.jsonl:203: malformed JSON" in caplog.text and "web.jsonl:204: malformed JSON" in caplog.text
    assert not Path(options.output).exists()
    with caplog.at_level("INFO"):
        prepare(replace(options, max_rejected_fraction=0.02))
    assert "pieces of work were done by an earlier run" in caplog.text
    assert Path(options.output).exists() and not list(tmp_path.glob("*.partial"))


def test_a_file_without_its_last_newline_loses_nothing(settings, write_jsonl):
    files = write_jsonl("web.jsonl", TEXTS)
    Path(files).write_bytes(Path(files).read_bytes().rstrip(b"\n"))
    assert prepare(settings({"web": files})).domains["web"].documents == 200


def test_an_output_that_is_not_empty_is_refused_untouched(settings, write_jsonl, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)})
    with pytest.raises(DataError, match=r"output=.*not an empty directory"):
        prepare(options)
    (tmp_path / "out" / "notes").unlink()
    prepare(options)  # an empty directory is fine
    assert not list(tmp_path.glob("*.partial"))


def test_too_little_disk_is_refused_before_anything_is_written(settings, write_jsonl, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)})
    with pytest.raises(DataError, match="Make space"):
        prepare(options)
    assert not Path(options.output).exists() and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", ".hidden", "-x", "a b", "ä", "a\n", "x" * 101]
)
def test_a_domain_name_that_is_no_safe_folder_name_is_refused(settings, name):
    with pytest.raises(DataError, match="safe folder name"):
        settings({name: "x.jsonl"})


def test_a_split_without_a_whole_sequence_is_refused_by_name(settings, write_jsonl):
    shares = SplitShares(prune=0.5, pretrain=0.499, validation=0.001)
    with pytest.raises(DataError, match=r"shares\.validation=0\.001: domain 'web'.*Raise shares\.validation"):
        prepare(settings({"web": write_jsonl("web.jsonl", TEXTS[:20])}, shares=shares))


def test_a_share_of_zero_leaves_the_split_out(settings, write_jsonl):
    shares = SplitShares(prune=0.0, pretrain=0.8, validation=0.2)
    manifest = prepare(settings({"web": write_jsonl("web.jsonl", TEXTS)}, shares=shares))
    assert set(manifest.domains["web"].splits) == {"pretrain", "validation"}
    with pytest.raises(DataError, match=r"data\.split='prune'"):
        manifest.chunk_sizes("prune")


@pytest.mark.parametrize(
    "shares", [{"prune": 0.5}, {"prune": -0.2, "pretrain": 1.15}, {"validation": float("nan")}]
)
def test_shares_that_are_no_fractions_of_one_are_refused(shares):
    with pytest.raises(DataError, match="shares="):
        SplitShares(**shares)


@pytest.mark.parametrize("value", ["nothing.jsonl", "*.nothing", [], "web.zip", "."])
def test_files_that_cannot_be_read_are_refused(settings, tmp_path, value):
    (tmp_path / "web.zip").write_text("x")
    files = [] if value == [] else str(tmp_path / value)
    with pytest.raises(DataError, match=r"domains\.web"):
        prepare(settings({"web": files}))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sequence_length": 1}, "sequence_length"),
        ({"max_rejected_fraction": 2}, "max_rejected_fraction"),
        ({"chunk_bytes": 0}, "chunk_bytes"),
        ({"chunk_bytes": 1 << 40}, "chunk_bytes"),
        ({"unit_bytes": 0}, "unit_bytes"),
        ({"workers": 0}, "workers"),
        ({"max_document_bytes": 0}, "max_document_bytes"),
        ({"domains": {}}, "domains"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, changes, key):
    with pytest.raises(DataError, match=key):
        settings(**({"domains": {"web": "x.jsonl"}} | changes))


def test_a_tokenizer_that_cannot_be_loaded_is_refused(settings, write_jsonl, tmp_path):
    (tmp_path / "no-tokenizer").mkdir()
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, tokenizer=str(tmp_path / "no-tokenizer"))
    with pytest.raises(DataError, match="tokenizer="):
        prepare(options)


def test_fingerprint_is_that_of_the_tokenizer_wherever_it_lies(tokenizer_directory, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    first = load_tokenizer(str(tokenizer_directory)).fingerprint
    tokenizer(["some text", "more"], padding=False, truncation=True, max_length=3)
    tokenizer.save_pretrained(tmp_path / "elsewhere")
    again = AutoTokenizer.from_pretrained(tmp_path / "elsewhere")
    assert load_tokenizer(str(tmp_path / "elsewhere")).fingerprint == first
    again.add_tokens(["<another>"])
    again.save_pretrained(tmp_path / "another")
    assert load_tokenizer(str(tmp_path / "another")).fingerprint != first


def test_large_vocabularies_are_stored_in_four_bytes(settings, write_jsonl, monkeypatch):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)})
    small = prepare(options)
    record = TextTokenizer.record
    monkeypatch.setattr(TextTokenizer, "record", lambda self: replace(record(self), vocabulary=70_000))
    wide = settings(options.domains, output=options.output + "-wide")
    assert (small.token_type, prepare(wide).token_type) == ("uint16", "uint32")
    assert stored_tokens(options.output, "prune") == stored_tokens(wide.output, "prune")


def test_manifest_on_disk_is_what_prepare_returned(settings, write_jsonl):
    options = settings(
        {"web": write_jsonl("web.jsonl", TEXTS), "code": write_jsonl("code.jsonl", [t[::-1] for t in TEXTS])}
    )
    manifest = prepare(options)
    assert read_manifest(options.output) == manifest and tuple(manifest.domains) == ("code", "web")
    assert json.loads((Path(options.output) / "manifest.json").read_text())["format"] == 3
    web = manifest.domains["web"]
    assert (web.inputs, web.bytes) == (1, Path(options.domains["web"]).stat().st_size)
    assert (manifest.text_field, manifest.runs, manifest.shares["prune"]) == ("text", 1, 0.4)
    assert web.bounds == {"prune": (0.0, 0.4), "pretrain": (0.4, 0.8), "validation": (0.8, 1.0)}


@pytest.mark.parametrize("workers", [1, 3])
def test_output_does_not_depend_on_workers_or_on_how_the_work_is_cut(
    settings, write_jsonl, workers, tmp_path
):
    """Ranges that end inside lines, inside characters, and at the end of a line; more workers than pieces of work."""
    texts = [text + " é" * (n % 7) for n, text in enumerate(TEXTS)]
    files = {
        "web": write_jsonl("web.jsonl", texts),
        "code": write_jsonl("code.jsonl", [t[::-1] for t in texts]),
    }
    whole = settings(files, workers=1)
    prepare(whole)
    for unit_bytes in (1000, 171) if workers == 1 else (1000,):
        cut = settings(
            files, unit_bytes=unit_bytes, workers=workers, output=str(tmp_path / f"cut-{unit_bytes}")
        )
        prepare(cut)
        assert tree(whole.output) == tree(cut.output)


def test_validation_has_the_tokens_asked_for_and_the_rest_is_shared(settings, write_jsonl):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, tokens=SplitTokens(validation=500))
    web = prepare(options).domains["web"]
    assert 500 <= web.splits["validation"].tokens < 500 + 40
    prune, pretrain = web.splits["prune"].tokens, web.splits["pretrain"].tokens
    assert web.unused == 0 and 0.7 < prune / pretrain < 1.4
    assert sum(split.documents for split in web.splits.values()) == 200


def test_what_no_split_wants_is_counted(settings, write_jsonl):
    files = {"web": write_jsonl("web.jsonl", TEXTS)}
    options = settings(files, tokens=SplitTokens(prune=300, pretrain=400, validation=500))
    web = prepare(options).domains["web"]
    for split, wanted in (("prune", 300), ("pretrain", 400), ("validation", 500)):
        assert wanted <= web.splits[split].tokens < wanted + 40
    assert web.documents + web.unused == 200 and web.unused > 100
    assert f"{web.unused:,} documents that no split wanted" in summary(read_manifest(options.output))


def test_more_tokens_than_there_are_are_refused(settings, write_jsonl):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, tokens=SplitTokens(validation=10**9))
    with pytest.raises(
        DataError, match=r"tokens\.validation=1000000000: domain 'web' has [\d,]+ tokens left"
    ):
        prepare(options)


def test_an_empty_file_is_no_mistake_and_an_empty_domain_is(settings, write_jsonl, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    files = [str(tmp_path / "empty.jsonl"), write_jsonl("web.jsonl", TEXTS)]
    assert prepare(settings({"web": files})).domains["web"].documents == 200
    with pytest.raises(DataError, match=r"domain 'none' has 0 documents with 0 tokens"):
        prepare(settings({"web": files, "none": files[0]}, output=str(tmp_path / "other")))
