"""Every kind of input gives the same documents, and says what is wrong with it."""

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.settings import SplitShares
from shear_lit.data.text import sources as inputs
from tests.trees import tree

TEXTS = [f"document number {number} says {number * number} é" for number in range(150)]
LINES = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)


def zstd(content, frames=1):
    zstandard = pytest.importorskip("zstandard")
    size = -(-len(content) // frames)
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in parts)


def write_table(path, texts, *, field="text", group=40, values=None):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = arrow.array(texts) if values is None else values
    table = arrow.table({"number": list(range(len(column))), field: column})
    parquet.write_table(table, path, row_group_size=group)
    return str(path)


def gzipped(content, members=1):
    size = -(-len(content) // members)
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


@pytest.fixture
def plain(settings, tmp_path):
    """The bytes that a plain file of lines gives."""
    (tmp_path / "plain.jsonl").write_bytes(LINES)
    options = settings({"web": str(tmp_path / "plain.jsonl")}, output=str(tmp_path / "plain"))
    prepare(options)
    return tree(tmp_path / "plain" / "web")


KINDS = ["a.jsonl.gz", "b.json.gz", "c.jsonl.zst", "d.jsonl.zst", "e.parquet", "f.ndjson"]


@pytest.mark.parametrize(
    ("name", "workers"), [*((name, 1) for name in KINDS), *((name, 2) for name in (KINDS[0], KINDS[4]))]
)
def test_every_kind_of_file_gives_the_bytes_of_plain_lines(plain, settings, tmp_path, name, workers):
    path = tmp_path / name
    match name[0]:
        case "a":
            path.write_bytes(gzipped(LINES))
        case "b":
            path.write_bytes(gzipped(LINES[:-1], members=3))
        case "c" | "d":
            path.write_bytes(zstd(LINES, frames=1 if name[0] == "c" else 4))
        case "e":
            write_table(path, TEXTS)
        case "f":
            path.write_bytes(LINES)
    options = settings({"web": str(path)}, unit_bytes=2000, workers=workers)
    assert prepare(options).domains["web"].documents == 150
    assert tree(Path(options.output) / "web") == plain


def test_text_files_are_a_document_each(plain, settings, tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:03d}.{('txt', 'md', 'py')[number % 3]}").write_text(text, encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    options = settings({"web": str(tmp_path / "[0-9e]*.*")}, unit_bytes=700, workers=1)
    manifest = prepare(options)
    assert tree(Path(options.output) / "web") == plain
    assert manifest.domains["web"].rejected == {"empty document": 1}


def test_rejected_documents_are_named_by_file_row_and_line_whatever_the_kind(settings, tmp_path, caplog):
    arrow = pytest.importorskip("pyarrow")
    cells = arrow.array([t.encode() for t in TEXTS[:50]] + [None, b"\xff", b" "], arrow.binary())
    unchecked = arrow.Array.from_buffers(arrow.string(), len(cells), cells.buffers(), cells.null_count)
    table = write_table(tmp_path / "a.parquet", None, group=20, values=unchecked)
    (tmp_path / "b.txt").write_bytes(b"\xff\xff")
    (tmp_path / "c.jsonl.gz").write_bytes(gzipped(LINES + b'\n{"text": 1}\n'))
    options = settings(
        {"web": [table, str(tmp_path / "b.txt"), str(tmp_path / "c.jsonl.gz")]},
        max_rejected_fraction=0.1,
        unit_bytes=500,
    )
    manifest = prepare(options)
    reasons = {"empty document": 1, "invalid UTF-8": 2, "no text in field 'text'": 2}
    assert manifest.domains["web"].rejected == reasons
    for place in (
        "a.parquet:51: no text",
        "a.parquet:52: invalid",
        "a.parquet:53: empty",
        "b.txt: invalid UTF-8",
    ):
        assert place in caplog.text
    assert "c.jsonl.gz:152: no text" in caplog.text


def truncated(content):
    return content[: len(content) * 2 // 3]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


ARCHIVES = ["x.jsonl.gz", "x.jsonl.zst", "x.parquet"]
DAMAGES = [truncated, flipped, lambda content: b"no archive at all", lambda content: b""]


@pytest.mark.parametrize(
    ("name", "damage"),
    # Parquet has no checksums here: what a flipped byte does depends on the byte.
    [(name, damage) for name in ARCHIVES for damage in DAMAGES if (name, damage) != (ARCHIVES[2], flipped)],
)
def test_damaged_archives_are_named(settings, tmp_path, name, damage):
    path, fine = tmp_path / name, tmp_path / "fine.jsonl"
    if name.endswith(".parquet"):
        write_table(path, TEXTS)
    else:
        path.write_bytes(gzipped(LINES) if name.endswith(".gz") else zstd(LINES))
    path.write_bytes(damage(path.read_bytes()))
    fine.write_bytes(LINES)
    with pytest.raises(DataError, match=rf"{name}' cannot be read .*truncated, damaged"):
        prepare(settings({"web": [str(fine), str(path)]}))


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet"])
def test_a_wrong_text_field_is_refused_at_once_with_the_fields_there_are(settings, tmp_path, name):
    path, lines = tmp_path / name, LINES.replace(b'"text"', b'"body"')
    if name.endswith(".parquet"):
        write_table(path, TEXTS, field="body")
    else:
        path.write_bytes({"l": lambda c: c, "z": gzipped, "t": zstd}[name[-1]](lines))
    with pytest.raises(DataError, match=r"text_field='text': .* has no such field; it has .*'body'"):
        prepare(settings({"web": str(path)}))
    assert prepare(settings({"web": str(path)}, text_field="body")).domains["web"].documents == 150


def test_a_column_without_text_is_refused(settings, tmp_path):
    table = write_table(tmp_path / "x.parquet", TEXTS)
    with pytest.raises(DataError, match=r"text_field='number': .* holds int64, no text"):
        prepare(settings({"web": table}, text_field="number"))


def test_a_document_that_is_too_large_is_rejected_and_the_next_is_not(settings, tmp_path):
    """Wherever ranges of the file begin: its rest is never held in memory, nor taken for a document."""
    large = json.dumps({"text": "x" * 5000}).encode() + b"\n"
    lines = LINES.splitlines(keepends=True)
    content = b"".join([*lines[:70], large, *lines[70:], large])
    (tmp_path / "x.jsonl").write_bytes(content)
    (tmp_path / "y.jsonl.gz").write_bytes(gzipped(content))
    (tmp_path / "z.txt").write_text("y" * 5000)
    for number, unit_bytes in enumerate((8 << 20, 900)):
        options = settings(
            {"a": str(tmp_path / "x.jsonl"), "b": [str(tmp_path / "y.jsonl.gz"), str(tmp_path / "z.txt")]},
            max_document_bytes=1000,
            max_rejected_fraction=0.1,
            unit_bytes=unit_bytes,
            workers=1,
            shares=SplitShares(prune=0.0, pretrain=1.0, validation=0.0),
            output=str(tmp_path / f"out-{number}"),
        )
        with pytest.raises(DataError, match=r"shares.pretrain=1.0: domain 'b' has 0 documents"):
            prepare(options)  # all of its documents are those of domain a
        manifest = prepare(replace(options, domains={"a": options.domains["a"]}))
        assert (manifest.domains["a"].documents, manifest.domains["a"].rejected) == (
            150,
            {"larger than max_document_bytes": 2},
        )


@pytest.mark.parametrize(
    ("name", "package"), [("x.parquet", "pyarrow"), ("x.jsonl.zst", "zstandard"), ("hf://x", "datasets")]
)
def test_a_missing_package_is_named_with_its_extra(settings, tmp_path, monkeypatch, name, package):
    (tmp_path / "x.parquet").touch()
    (tmp_path / "x.jsonl.zst").touch()
    real = inputs.importlib.util.find_spec
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda n: None if n == package else real(n))
    path = name if name.startswith("hf") else str(tmp_path / name)
    with pytest.raises(DataError, match=rf"package '{package}', which is not installed.*shear-lit\[corpus\]"):
        prepare(settings({"web": path}))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set in a directory, read by the library as one of the hub is, without the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "set").mkdir()
    write_table(tmp_path / "set" / "train-00000.parquet", TEXTS)
    return f"hf://{tmp_path / 'set'}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_hub_data_set_gives_the_bytes_of_plain_lines(plain, settings, hub, tmp_path):
    options = settings({"web": f"{hub}::train"}, unit_bytes=2000)
    manifest = prepare(options)
    assert tree(Path(options.output) / "web") == plain and manifest.domains["web"].inputs == 1
    assert prepare(options) == manifest  # it is known again
    with pytest.raises(DataError, match=r"text_field='body': .* has no such field; it has 'number', 'text'"):
        prepare(replace(options, text_field="body", output=str(tmp_path / "body")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_hub_data_set_that_is_not_there_is_named(settings, hub):
    with pytest.raises(DataError, match=r"domains\.web='hf://.*::nothing' cannot be loaded"):
        prepare(settings({"web": f"{hub}::nothing"}))


def test_workers_import_neither_torch_nor_transformers():
    import subprocess

    code = (
        "import sys, shear_lit.data.preparing.stages as w; "
        "assert not {'torch', 'transformers', 'litdata', 'pyarrow'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
