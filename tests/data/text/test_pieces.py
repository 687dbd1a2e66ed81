"""Pieces of work can be read alone, in any process, within bounded memory."""

import json
import pickle
import subprocess
import sys
import tracemalloc

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.text.documents import TOO_LARGE
from shear_lit.data.text.pieces import Piece, check_text_field, documents, pieces
from shear_lit.data.text.sources import find_sources
from tests.data.text.test_corpus import Reads, read
from tests.data.text.test_inputs import hub, write_table  # noqa: F401
from tests.data.text.test_sources import write_tokens


def line(text):
    return json.dumps({"text": text}).encode() + b"\n"


def test_the_module_imports_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); import shear_lit.data.text.pieces, shear_lit.data.text.documents; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "assert new - sys.stdlib_module_names == {'shear_lit'}, new - sys.stdlib_module_names"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_piece_says_where_its_documents_lie(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(line("one") * 10)
    (tmp_path / "b.txt").write_bytes(b"two")
    (tmp_path / "c.txt").write_bytes(b"three")
    cut = list(pieces(find_sources({"web": f"{tmp_path}/*"}), Reads(unit_bytes=100)))
    assert [(piece.start, piece.end, piece.bytes) for piece in cut] == [
        (0, 100, 100),
        (100, 160, 60),
        (0, 0, 8),
    ]
    assert cut[1].place(2, 7) == f"{tmp_path}/a.jsonl:9"
    assert [cut[2].place(number, 0) for number in (1, 2)] == [f"{tmp_path}/b.txt", f"{tmp_path}/c.txt"]
    assert pickle.loads(pickle.dumps(cut)) == cut  # noqa: S301
    assert Piece(domain="a", name="b\n\udcff", kind="lines", bytes=0).place(1, 0) == r"b\n\udcff:1"


def test_small_files_of_a_domain_go_together_and_no_others(tmp_path):
    for domain in "ab":
        for number in range(5):
            (tmp_path / f"{domain}{number}.txt").write_bytes(b"x" * 40)
    found = find_sources({domain: f"{tmp_path}/{domain}*" for domain in "ab"})
    assert [(p.domain, len(p.names), p.bytes) for p in pieces(found, Reads(unit_bytes=100))] == [
        ("a", 3, 120),
        ("a", 2, 80),
        ("b", 3, 120),
        ("b", 2, 80),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet"])
def test_a_document_that_is_too_large_is_never_held(tmp_path, name):
    """16 MB of it take less than 4 MB, beside what another package allocates for itself."""
    text, path = "z" * (1 << 24), tmp_path / name
    match name:
        case "a.parquet":
            write_table(path, [text, "one"])
        case "a.csv":
            path.write_text(f'text,n\n"{text}",1\none,2\n')
        case "a.json":
            path.write_bytes(b"[" + line(text) + b"," + line("one") + b"]")
        case "a.txt":
            path.write_text(text)
        case _:
            path.write_bytes(line(text) + line("one"))
    del text
    reads = Reads(unit_bytes=1 << 16, max_document_bytes=1 << 16)
    read(str(path), reads)  # what is imported now is not counted
    tracemalloc.start()
    try:
        found, rejects, _ = read(str(path), reads)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found, rejects) == ({} if name == "a.txt" else {2: "one"}, {1: TOO_LARGE})
    assert most < 1 << 22 or name == "a.parquet"  # a value is whole when the package hands it over


def test_a_large_row_group_is_cut_inside_and_read_once(tmp_path):
    texts = [f"row {number} " + "word " * 200 for number in range(2000)]
    path = write_table(tmp_path / "a.parquet", texts, group=2000)
    reads = Reads(unit_bytes=1 << 14, max_document_bytes=1 << 20)
    cut = list(pieces(find_sources({"web": path}), reads))
    assert len(cut) > 100 and max(len(piece.block) for piece in cut) < 2 << 14
    found = [one.text for piece in cut for one in documents(piece, reads)]
    assert found == texts
    small = write_table(tmp_path / "b.parquet", texts, group=10)
    cut = list(pieces(find_sources({"web": small}), reads))
    assert {piece.block for piece in cut} == {b""} and [
        one.text for p in cut for one in documents(p, reads)
    ] == texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"[" * 1000 + b'\n{"body": "one"}\n'),
        ("a.json", b'[{"body": "one"}, {"body": "two"}]'),
        ("a.jsonl", b'\xef\xbb\xbf{"n": ' + b"9" * 5000 + b', "body": "one"}\n'),
        ("a.csv", b"n,body\n1,one\n"),
    ],
)
def test_a_wrong_text_field_is_refused_at_the_start(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    sources, reads = find_sources({"web": str(tmp_path / name)}), Reads(max_document_bytes=1 << 20)
    with pytest.raises(DataError, match=r"text_field='text': .* has no such field; it has .*'body'"):
        check_text_field(sources, reads)
    check_text_field(sources, Reads(max_document_bytes=1 << 20, text_field="body"))


def test_tokens_without_a_token_that_ends_a_document_are_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\1\0\2\0")
    for end, told in ((None, "the tokenizer has none"), (1 << 16, "is 65536, which is too large for it")):
        with pytest.raises(DataError, match=rf"domains\.web=.*a\.bin' holds tokens.*{told}"):
            read(f"uint16:{tmp_path / 'a.bin'}", Reads(end_of_text=end))


def test_tokens_of_a_folder_that_litdata_wrote_are_read(tmp_path):
    write_tokens(tmp_path / "tokens", [[1, 2, 0], [3], [4, 0, 5, 6, 0]])
    for unit_bytes in (2, 6, 1000):
        found, rejects, _ = read(str(tmp_path / "tokens"), Reads(unit_bytes=unit_bytes, end_of_text=0))
        assert (found, rejects) == ({1: [1, 2], 2: [3, 4], 3: [5, 6]}, {})


def test_a_file_that_goes_away_or_shrinks_is_named(tmp_path):
    for name, content in (("a.jsonl", line("one") * 9), ("b.txt", b"two"), ("c.npy", None)):
        path = tmp_path / name
        if content is None:
            import numpy as np

            np.save(path, np.arange(90))
        else:
            path.write_bytes(content)
        (piece,) = pieces(find_sources({"web": str(path)}), Reads())
        path.unlink()
        with pytest.raises(DataError, match=rf"{name}' cannot be read \(No such file"):
            list(documents(piece, Reads()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_hub_data_set_is_cut_and_read(hub):  # noqa: F811
    found, rejects, cut = read(f"{hub}::train", Reads(unit_bytes=500))
    assert len(found) == 150 and not rejects and len(cut) > 5
