"""LLM-Shearing's MDS folders become prepared data of the same sequences, and nothing in them is run."""

import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest

from shear_lit import cli
from shear_lit.data.errors import DataError
from shear_lit.data.looking.verification import verify
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.mds import MdsError, mds_shards
from shear_lit.data.preparing.mds_import import MdsImport, import_mds
from shear_lit.data.serving.store import SequenceStore
from tests.data.preparing.mds_folders import sample, write_mds

SIZES = {"prune": (9, 6), "pretrain": (21, 11), "validation": (5, 7)}
FOLDERS = {"prune": "for_prune", "pretrain": "for_ft", "validation": "eval"}


def expected(split):
    """The sequences of both domains in a split: their numbers tell the split."""
    start = 50 * list(SIZES).index(split)
    return [[sample(d, start + n) for n in range(count)] for d, count in enumerate(SIZES[split])]


@pytest.fixture
def published(tmp_path):
    """The three folders that LLM-Shearing's scripts make."""
    for split, folder in FOLDERS.items():
        for domain, samples in zip("ab", expected(split), strict=True):
            write_mds(tmp_path / "mds" / folder / domain, samples)
    both = expected("validation")
    write_mds(tmp_path / "mds" / "eval" / "eval_merge", [*both[0], *both[1]])
    return tmp_path / "mds"


def imported(folders, tokenizer, output, **changes):
    return import_mds(MdsImport(from_mds=folders, tokenizer=str(tokenizer), output=str(output), **changes))


def assert_imported(output):
    for split, sizes in SIZES.items():
        store = SequenceStore(output, split)
        assert store.domains == ("a", "b")
        assert [store.sequences(0), store.sequences(1)] == list(sizes)
        for domain, samples in enumerate(expected(split)):
            for number, wanted in enumerate(samples):
                tokens = store[domain, number]["tokens"][0].numpy().astype("<u2").tobytes()
                assert tokens == wanted["tokens"], (split, domain, number)


def test_published_folders_become_prepared_data(published, tokenizer_directory, tmp_path):
    manifest = imported(str(published), tokenizer_directory, tmp_path / "out", chunk_bytes=40)
    assert_imported(tmp_path / "out")
    assert read_manifest(tmp_path / "out") == manifest and verify(str(tmp_path / "out")).files == 30
    assert (manifest.sequence_length, manifest.token_type) == (4, "uint16")
    assert manifest.prepend_bos and manifest.append_eos
    assert manifest.tokenizer.name == str(tokenizer_directory) and manifest.tokenizer.vocabulary == 289
    assert manifest.domains["a"].splits["prune"].tokens == 36 and not list(tmp_path.glob("*.partial"))


def test_a_changed_token_would_be_seen(published, tokenizer_directory, tmp_path):
    changed = expected("prune")[0]
    changed[3] = sample(0, 280)
    write_mds(published / "for_prune" / "a", changed)
    imported(str(published), tokenizer_directory, tmp_path / "out")
    with pytest.raises(AssertionError, match="prune"):
        assert_imported(tmp_path / "out")


def test_command_line_takes_folders_by_split(published, tokenizer_directory, tmp_path, capfd):
    flags = [f"--from-mds.{split}={published / folder}" for split, folder in FOLDERS.items()]
    cli.main(["prepare", *flags, f"--tokenizer={tokenizer_directory}", f"--output={tmp_path / 'out'}"])
    assert_imported(tmp_path / "out")
    cli.main(
        [
            "prepare",
            "--from-mds",
            str(published),
            f"--tokenizer={tokenizer_directory}",
            f"--output={tmp_path / 'two'}",
        ]
    )
    assert read_manifest(tmp_path / "two") == read_manifest(tmp_path / "out")
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--from-mds", "x", "--help"])
    assert "MDS folders by split" in capfd.readouterr().out


def test_folders_without_the_column_are_named_by_their_domain(tokenizer_directory, tmp_path):
    for domain, name in enumerate("ab"):
        samples = [sample(domain, n, named=False) for n in range(3)]
        write_mds(tmp_path / "mds" / name, samples, columns={"tokens": "bytes"})
    imported({"prune": str(tmp_path / "mds")}, tokenizer_directory, tmp_path / "out")
    store = SequenceStore(tmp_path / "out", "prune")
    assert store.domains == ("a", "b") and store[1, 2]["tokens"].tolist() == [[1, 2, 0, 0]]


def test_several_folders_of_one_split_follow_each_other(tokenizer_directory, tmp_path):
    parts = [write_mds(tmp_path / str(n), [sample(0, n)]) for n in range(3)]
    imported({"prune": [str(part) for part in parts[::-1]]}, tokenizer_directory, tmp_path / "out")
    store = SequenceStore(tmp_path / "out", "prune")
    assert [int(store[0, n]["tokens"][0, 1]) for n in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("how", ["zstd", "zstd:7", "gz", "bz2"])
def test_compressed_shards_are_read(tmp_path, how):
    if how.startswith("zstd"):
        pytest.importorskip("zstandard")
    folder = write_mds(tmp_path / "mds", [sample(0, n) for n in range(9)], how=how)
    assert not list(folder.glob("*.mds"))
    assert [int(s.tokens[1]) for shard in mds_shards(folder) for s in shard] == list(range(9))


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_pickled_column_is_refused_before_any_shard_is_opened(tmp_path, monkeypatch, tokenizer_directory):
    monkeypatch.setenv("TRAP", str(tmp_path / "trapped"))
    columns = {"tokens": "bytes", "set": "str", "extra": "pkl"}
    folder = write_mds(tmp_path / "mds", [sample(0, 1) | {"extra": pickle.dumps(Trap())}], columns=columns)
    for shard in folder.glob("*.mds"):
        shard.unlink()  # nothing may look for it
    with pytest.raises(MdsError, match=r"column 'extra' is pickled.*runs whatever code"):
        imported({"prune": str(folder)}, tokenizer_directory, tmp_path / "out")
    assert not (tmp_path / "trapped").exists() and not (tmp_path / "out").exists()


def test_columns_of_text_beside_ours_are_passed_over(tmp_path):
    columns = {"tokens": "bytes", "set": "str", "source": "str"}
    folder = write_mds(tmp_path / "mds", [sample(1, 4) | {"source": "web"}], columns=columns)
    (found,) = [s for shard in mds_shards(folder) for s in shard]
    assert found.domain == "b" and found.tokens.tolist() == [1, 4, 0, 0]


@pytest.mark.parametrize(
    "columns", [{"text": "str"}, {"tokens": "ndarray"}, {"tokens": "bytes", "set": "int"}]
)
def test_other_columns_are_refused(tmp_path, columns):
    folder = write_mds(tmp_path / "mds", [dict.fromkeys(columns, b"00000000")], columns=columns)
    with pytest.raises(MdsError, match=r"has the columns.*must be 'bytes'"):
        mds_shards(folder)


def edit_index(folder, change):
    index = json.loads((folder / "index.json").read_text())
    change(index["shards"][0])
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(version=1), "version 1: MDS of version 2 is read"),
        (lambda s: s.update(format="json"), "format 'json'"),
        (lambda s: s["raw_data"].update(basename="../x.mds"), "outside of its folder"),
        (lambda s: s["raw_data"].update(basename="/etc/passwd"), "outside of its folder"),
        (lambda s: s.pop("samples"), "cannot be read as an index"),
        (lambda s: s.update(column_sizes=[]), "cannot be read as an index"),
    ],
)
def test_index_that_cannot_be_followed_is_refused(tmp_path, change, message):
    folder = write_mds(tmp_path / "mds", [sample(0, 1)])
    edit_index(folder, change)
    with pytest.raises(MdsError, match=message):
        mds_shards(folder)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def without_hashes(folder):
    edit_index(folder, lambda s: s["raw_data"].update(hashes={}))


def set_number(folder, place, value):
    path = folder / "shard.00000.mds"
    content = bytearray(path.read_bytes())
    content[place : place + 4] = value.to_bytes(4, "little")
    path.write_bytes(content)
    without_hashes(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "shard.00000.mds").unlink(), "the shard is missing"),
        (lambda f: (f / "shard.00000.mds").write_bytes(b"1"), "1 bytes instead of"),
        (lambda f: flip(f / "shard.00000.mds"), "its sha1 is not that of the index"),
        (lambda f: set_number(f, 0, 9), "has 9 samples instead of 2"),
        (lambda f: set_number(f, 4, 1), "its samples lie outside"),
        (lambda f: set_number(f, 12, 1 << 30), "its samples lie outside"),
        (lambda f: set_number(f, 8, 80), "not of the columns"),
    ],
)
def test_damaged_shard_is_named_and_nothing_is_left(tmp_path, tokenizer_directory, damage, message):
    folder = write_mds(tmp_path / "mds", [sample(0, 1), sample(0, 2)])
    damage(folder)
    with pytest.raises(MdsError, match=rf"shard\.00000\.mds.*{message}"):
        imported({"prune": str(folder)}, tokenizer_directory, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


def test_damaged_compression_is_named(tmp_path):
    folder = write_mds(tmp_path / "mds", [sample(0, 1)], how="gz")
    edit_index(folder, lambda s: s["zip_data"].update(hashes={}))
    flip(folder / "shard.00000.mds.gz")
    with pytest.raises(MdsError, match=r"mds\.gz': it cannot be decompressed"):
        [list(shard) for shard in mds_shards(folder)]
    edit_index(folder, lambda s: s.update(compression="br"))
    with pytest.raises(MdsError, match="compressed with 'br'; zstd, gz and bz2 are read"):
        [list(shard) for shard in mds_shards(folder)]


def test_zstd_without_its_package_tells_how_to_get_it(tmp_path, monkeypatch):
    pytest.importorskip("zstandard")
    folder = write_mds(tmp_path / "mds", [sample(0, 1)], how="zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MdsError, match=r"pip install shear-lit\[mds\]"):
        [list(shard) for shard in mds_shards(folder)]


def test_what_does_not_fit_together_is_refused(published, tokenizer_directory, tmp_path):
    def refuse(message, folders=None, **changes):
        with pytest.raises(DataError, match=message):
            imported(folders or str(published), tokenizer_directory, tmp_path / "out", **changes)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))

    refuse("holds none of for_prune, for_ft", str(tmp_path))
    refuse("there must be one, and they are prune, pretrain, validation", {"train": str(published)})
    refuse("holds no index.json", {"prune": str(tmp_path / "nowhere")})
    refuse("chunk_bytes=0", chunk_bytes=0)
    write_mds(published / "for_ft" / "b", [sample(1, 1, length=6)])
    refuse("holds a sequence of 6 tokens, the first one has 4")
    write_mds(published / "for_ft" / "b", [sample(1, 300)])
    refuse("holds token 300, and tokenizer=.*has 289 entries")
    shutil.rmtree(published / "for_ft" / "b")
    refuse("from_mds.pretrain has no sample of b")
    write_mds(published / "for_ft" / "b", [{"tokens": sample(1, 1)["tokens"], "set": "../b"}])
    refuse(r"has the domain '\.\./b'")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="nothing is ever overwritten"):
        imported(str(published), tokenizer_directory, tmp_path / "full")


@pytest.mark.parametrize("how", [None, "zstd:3", "gz"])
@pytest.mark.filterwarnings("ignore")
def test_folders_of_mosaicml_streaming_are_read(tmp_path, how):
    """Its own writer, where it is installed, keeps the layout above honest."""
    streaming = pytest.importorskip("streaming", reason="mosaicml-streaming is not installed")
    samples = [sample(n % 2, n) for n in range(40)]
    columns, limit = {"tokens": "bytes", "set": "str"}, 300
    with streaming.MDSWriter(
        columns=columns,
        out=str(tmp_path / "mds"),
        compression=how,
        hashes=["sha1", "xxh64"],
        size_limit=limit,
    ) as out:
        for one in samples:
            out.write(one)
    shards = mds_shards(tmp_path / "mds")
    found = [{"tokens": s.tokens.tobytes(), "set": s.domain} for shard in shards for s in shard]
    assert len(shards) > 3 and found == samples


def test_an_import_leaves_alone_what_a_preparation_did_that_was_stopped(
    published, tmp_path, tokenizer_directory
):
    spool = tmp_path / "out.partial" / "spool" / "x"
    spool.parent.mkdir(parents=True)
    spool.write_bytes(b"an hour of work")
    manifest = imported(str(published), tokenizer_directory, tmp_path / "out")
    assert_imported(tmp_path / "out")
    assert spool.read_bytes() == b"an hour of work" and manifest.domains["a"].splits["prune"].chunks


def test_documents_are_counted_where_bos_and_eos_tell_of_them(tmp_path, tokenizer_directory):
    """Sequences of five documents, the first of which begins before them."""
    sequences = [[7, 7, 1, 0], [7, 1, 0, 1], [0, 1, 0, 7]]
    tokens = [{"tokens": np.array(one, dtype="<u2").tobytes(), "set": "a"} for one in sequences]
    write_mds(tmp_path / "mds", tokens)
    manifest = imported({"prune": str(tmp_path / "mds")}, tokenizer_directory, tmp_path / "out")
    assert manifest.domains["a"].documents == manifest.domains["a"].splits["prune"].documents == 4


def test_documents_that_nothing_tells_apart_are_not_kept_apart(published, tokenizer_directory, tmp_path):
    changes = {"append_eos": False, "prepend_bos": False}
    manifest = imported(str(published), tokenizer_directory, tmp_path / "out", **changes)
    assert manifest.domains["a"].documents == 0
    with pytest.raises(
        DataError, match=r"cross_document_attention=false: .*was imported with append_eos=false"
    ):
        SequenceStore(tmp_path / "out", "prune").check_documents()
