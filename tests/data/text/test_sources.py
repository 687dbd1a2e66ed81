"""Which inputs a domain has, and which names it may have."""

import logging
import os

import numpy as np
import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import check_domain_name
from shear_lit.data.text.sources import find_sources

ONE = b'{"text": "one"}\n'


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "out/web/c.jsonl", "out.partial/d.jsonl", "outer/e.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(ONE)
    return tmp_path


def names(folder, pattern, **options):
    found = find_sources({"web": pattern}, **options)
    return [source.name.removeprefix(f"{folder}/") for source in found]


def test_files_of_the_output_are_left_out_and_that_is_logged(folder, caplog):
    kept = names(folder, f"{folder}/**/*.jsonl", exclude=folder / "out")
    assert kept == ["a.jsonl", "b.jsonl", "outer/e.jsonl"]
    assert "also matches 2 files of the output directory, which are left out" in caplog.text
    (folder / "link").symlink_to(folder / "out")
    with pytest.raises(
        DataError, match=r"domains\.web='.*' matches nothing but files of the output directory"
    ):
        names(folder, f"{folder}/link/web/*.jsonl", exclude=folder / "out")
    assert len(names(folder, f"{folder}/**/*.jsonl")) > 3


def test_a_file_counts_once_in_a_domain_by_whatever_name(folder, caplog):
    (folder / "c.jsonl").symlink_to("a.jsonl")
    os.link(folder / "a.jsonl", folder / "d.jsonl")
    caplog.set_level(logging.INFO)
    patterns = [f"{folder}/*.jsonl", f"{folder}/outer/../a.jsonl", f"{folder}/b.jsonl"]
    assert names(folder, patterns) == ["a.jsonl", "b.jsonl"]
    assert caplog.text.count("counts once") == 4


def test_a_file_of_two_domains_is_read_for_both_and_logged(folder, caplog):
    found = find_sources({"b": f"{folder}/[ab].jsonl", "a": f"{folder}/a.jsonl"})
    assert [(source.domain, source.name[-7:]) for source in found] == [
        ("a", "a.jsonl"),
        ("b", "a.jsonl"),
        ("b", "b.jsonl"),
    ]
    assert [
        r.message for r in caplog.records if "is also in domain a, which keeps its documents" in r.message
    ]


@pytest.mark.parametrize(
    "name", ["Manifest.JSON", "readme.md", ".ledger", "../a", "", "a/b", "-a", "a" * 101, "é"]
)
def test_names_of_domains_that_cannot_be_folders_are_refused(name):
    with pytest.raises(DataError, match=r"domains=.*Rename the domain"):
        check_domain_name(name)


def test_an_index_stands_for_its_tokens_and_a_folder_of_tokens_for_its_files(folder):
    (folder / "a.bin").write_bytes(b"\1\0")
    (folder / "a.idx").touch()
    tokens = folder / "tokens"
    write_tokens(tokens, [[1, 2, 0], [3, 0]])
    assert names(folder, [f"{folder}/a.*", f"{folder}/a.idx"]) == ["a.bin", "a.jsonl"]
    assert names(folder, f"{folder}/tok*/**") == names(folder, str(tokens)) == ["tokens"]
    (source,) = find_sources({"web": f"uint16:{folder}/a.bin"})
    assert (source.kind, source.name, source.bytes) == ("uint16", f"{folder}/a.bin", 2)


def write_tokens(folder, arrays):
    """As litdata writes it."""
    import torch
    from litdata import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_size=3, item_loader=TokensLoader())
    for number, array in enumerate(arrays):
        writer[number] = torch.tensor(np.array(array), dtype=torch.uint16)
    writer.done()
    writer.merge()


def test_what_is_no_input_is_refused_with_the_names_that_are_read(folder):
    (folder / "a.docx").touch()
    for pattern, told in {
        f"{folder}/a.docx": r"is of no kind that is read: \.jsonl, .*README.*uint16:FILE",
        f"{folder}": "no file matches it",
        f"{folder}/nothing*": "no file matches it",
        f"uint16:{folder}/nothing": "no file matches it",
        "a\0b": "cannot be looked for|no file matches it",
        "": "no file matches it",
    }.items():
        with pytest.raises(DataError, match=told):
            find_sources({"web": pattern})
    with pytest.raises(DataError, match="is an empty list"):
        find_sources({"web": []})
