"""``shear-lit data`` and ``shear-lit prepare --check``, as they are called."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from shear_lit import cli
from shear_lit.data.looking.inspection import decoder_of
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.store import SequenceStore


def run(capfd, *arguments):
    cli.main([str(argument) for argument in arguments])
    return capfd.readouterr().out


def refused(capfd, *arguments, code=2):
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert left.value.code == code
    return capfd.readouterr().err


def test_manifest_is_shown_as_a_table(toy, capfd):
    said = run(capfd, "data", toy.data)
    manifest = read_manifest(toy.data)
    assert "sequences of 24 tokens as uint16; BOS not added, EOS added" in said
    rows = {
        tuple(line.split()[:2]): line.split()[2:]
        for line in said.splitlines()
        if line[:4] in ("law ", "wiki")
    }
    assert "packed one document after the other; special tokens in text " in said and "padding" not in said
    record = manifest.domains["law"].splits["prune"]
    numbers = [record.documents, record.tokens, record.tail_tokens, record.duplicates, record.sequences]
    assert rows["law", "prune"] == [f"{number:,}" for number in numbers]
    assert len(rows) == 6


def test_text_of_each_domain_is_shown_whole_and_cut(toy, capfd):
    said = run(capfd, "data", toy.data, "--sequences", 2, "--characters", 0, "--split", "pretrain")
    store = SequenceStore(toy.data, "pretrain")
    tokenizer = AutoTokenizer.from_pretrained(toy.source())
    for domain, name in enumerate(store.domains):
        there = store.sequences(domain)
        for number in (0, there // 2):
            assert f"{name}, sequence {number:,} of {there:,}\n" in said
            assert tokenizer.decode(store[domain, number]["tokens"][0].tolist()) in said
    cut = run(capfd, "data", toy.data, "--sequences", 1, "--characters", 10)
    assert cut.count("(the first 10 of ") == 3


def test_tokenizer_that_has_moved_is_named(toy, tmp_path, capfd):
    moved = shutil.copytree(toy.data, tmp_path / "data")
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["tokenizer"]["name"] = str(tmp_path / "gone")
    (moved / "manifest.json").write_text(json.dumps(manifest))
    said = refused(capfd, "data", moved, "--sequences", 1)
    assert "It made the data" in said and "with --tokenizer" in said
    assert "code, sequence 0" in run(capfd, "data", moved, "--sequences", 1, "--tokenizer", toy.source())


def test_another_tokenizer_is_refused(toy, tmp_path, capfd):
    other = AutoTokenizer.from_pretrained(toy.source())
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path / "other")
    said = refused(capfd, "data", toy.data, "--sequences", 1, "--tokenizer", tmp_path / "other")
    assert "is another one" in said and "they would give other text" in said


def test_decoding_gives_the_text_back(toy):
    tokenizer = AutoTokenizer.from_pretrained(toy.source())
    assert decoder_of(read_manifest(toy.data))(tokenizer("abc def")["input_ids"]) == "abc def"


def test_a_run_is_simulated(toy, tmp_path, capfd):
    weights = {"code": 0.5, "law": 0.25, "wiki": 0.25}
    (tmp_path / "mine.json").write_text(json.dumps({"updates": [{"step": 0, "weights": weights}]}))
    said = run(
        capfd, "data", toy.data, "--simulate", tmp_path / "mine.json", "--steps", 10, "--global_batch", 8
    )
    row = next(line.split() for line in said.splitlines()[::-1] if line.startswith("code"))
    assert row[:4] == ["code", "40", "960", "0.5000"]
    capped = ("--steps", 10, "--global_batch", 8, "--max_epochs")
    said = run(capfd, "data", toy.data, "--simulate", tmp_path / "mine.json", *capped, "{code: 0.05}")
    cap = int(0.05 * read_manifest(toy.data).domains["code"].splits["prune"].sequences)
    assert f"code    {cap:>9,}" in said and "  at step " in said
    said = run(capfd, "data", toy.data, "--simulate", tmp_path / "mine.json", *capped, 2)
    assert "runs out" in said and "at step " not in said
    assert "needs the length of the run" in refused(
        capfd, "data", toy.data, "--simulate", tmp_path / "mine.json"
    )


@pytest.mark.parametrize(
    "flags", [["--steps", 3], ["--global_batch", 3], ["--max_epochs", 1], ["--tokenizer", "x"]], ids=str
)
def test_option_without_effect_is_refused(toy, capfd, flags):
    assert "no effect without" in refused(capfd, "data", toy.data, *flags)


@pytest.mark.parametrize("flags", [["--sequences", -1], ["--sequences", 1, "--characters", -1]], ids=str)
def test_numbers_that_make_no_sense_are_refused(toy, capfd, flags):
    said = refused(capfd, "data", toy.data, *flags)
    assert f"{flags[-2].removeprefix('--')}='-1': a whole number of at least 0 is expected" in said


def test_help_explains_the_keys(capfd):
    with pytest.raises(SystemExit):
        cli.main(["data", "--help"])
    said = " ".join(capfd.readouterr().out.split())
    for words in ("Sequences of each domain to show", "--remote.cache_bytes", "DIRECTORY", "mixture.json"):
        assert words.lower() in said.lower(), words
    cli.main(["--help"])
    assert "look at prepared data" in capfd.readouterr().out


def test_check_passes_whole_data_and_names_a_bad_chunk(toy, tmp_path, capfd):
    copied = shutil.copytree(toy.data, tmp_path / "data")
    manifest = read_manifest(copied)
    splits = (split for domain in manifest.domains.values() for split in domain.splits.values())
    files = sum(len(chunk.files()) for split in splits for chunk in split.chunks) + len(manifest.ledger)
    assert f"whole; {files} files of " in run(capfd, "prepare", "--check", copied)
    path = copied / "law" / "pretrain" / "chunk-0-0.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    said = refused(capfd, "prepare", "--check", copied, code=1)
    assert f"{path}: the file's content changed" in said and "1 of its files" in said
    assert "Traceback" not in said


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops_with_the_name_of_a_bad_chunk(toy, tmp_path, capfd, workers):
    copied = shutil.copytree(toy.data, tmp_path / "data")
    path = copied / "law" / "prune" / "chunk-0-0.bin"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    flags = [f"--data.directory={copied}", f"--data.workers={workers}"]
    said = refused(capfd, *toy.arguments("prune", tmp_path / "run"), *flags, code=1)
    (last,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert last.startswith("error: data.directory=") and f": {path}: the file's content changed" in last
    assert "Traceback" not in last and not list((tmp_path / "run").rglob("*.ckpt"))


def test_help_of_prepare_tells_of_its_other_forms(capfd):
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--help"])
    said = " ".join(capfd.readouterr().out.split())
    assert all(f"prepare --{form} DIR" in said for form in ("check", "from-mds", "bounds"))
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--check", "x", "--help"])
    assert "Chunks that are read at a time" in " ".join(capfd.readouterr().out.split())
