"""Odd and hostile tables, and files of tokens."""

import gzip
import json
import struct

import numpy as np

from shear_lit.data.text.documents import EMPTY, INVALID, TOO_LARGE
from tests.data.text.cases import BOM, END, LONG, NO_TEXT, Case, Outcome, good, refused, rejected


def parquet_file(texts, *, group=1000, dictionary=False, **options):
    def write(path):
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        column = arrow.array(texts, **options)
        table = arrow.table(
            {"n": list(range(len(texts))), "text": column.dictionary_encode() if dictionary else column}
        )
        parquet.write_table(table, path, row_group_size=group)

    return write


def arrow_file(texts, *, form, rows=3):
    def write(path):
        import pyarrow as arrow
        from pyarrow import ipc

        table = arrow.record_batch({"text": arrow.array(texts, arrow.string())})
        new = ipc.new_file if form == "file" else ipc.new_stream
        with arrow.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
            for start in range(0, len(texts), rows):
                writer.write_batch(table.slice(start, rows))

    return write


def with_wild_offsets(path):
    """A file whose second text ends a gigabyte after its beginning."""
    arrow_file(["one", "two"], form="file")(path)
    content = path.read_bytes()
    assert content.count(struct.pack("<3i", 0, 3, 6)) == 1
    path.write_bytes(content.replace(struct.pack("<3i", 0, 3, 6), struct.pack("<3i", 0, 3, 1 << 30)))


CUT_ARRAY = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u2', 'fortran_order': False, 'shape': (9999,), }"


def index(lengths, documents, *, code=8, places=None, count=None, entries=None, version=1):
    starts = [2 * sum(lengths[:at]) for at in range(len(lengths))] if places is None else places
    header = struct.pack(
        "<9sQBQQ", b"MMIDIDX\0\0", version, code, count or len(lengths), entries or len(documents)
    )
    arrays = ((lengths, "<i4"), (starts, "<i8"), (documents, "<i8"))
    return header + b"".join(np.array(values, kind).tobytes() for values, kind in arrays)


def litdata_folder(arrays, **config):
    """A folder as litdata's optimize writes it for its TokensLoader."""

    def write(path):
        path.mkdir()
        chunks = []
        for number, items in enumerate(arrays):
            data = [np.array(tokens, "<u2").tobytes() for tokens in items]
            places = np.cumsum([4 * (len(items) + 2), *map(len, data)]).astype("<u4")
            name = f"chunk-0-{number}.bin"
            (path / name).write_bytes(struct.pack("<I", len(items)) + places.tobytes() + b"".join(data))
            chunks.append({"filename": name, "chunk_size": len(items), "dim": sum(map(len, items))})
        base = {"compression": None, "encryption": None, "data_format": ["no_header_tensor:20"]}
        (path / "index.json").write_text(json.dumps({"config": {**base, **config}, "chunks": chunks}))

    return write


def npy_file(array, **options):
    return lambda path: np.save(path, array, **options)


TOKENS = np.array([1, 2, END, 3, END, END, 4, 5], "<u2")
RUN = Outcome({1: [1, 2], 2: [3], 4: [4, 5]}, {3: EMPTY})
BINARY = TOKENS.tobytes()
RANDOM_ORDER = [f"row {number} " + "z" * (number % 90) for number in range(40)]

ROWS = [
    Case("a.csv", b'n,text\r\n1,one\r\n2,"two, and\r\n""more"""\r\n', good("one", 'two, and\r\n"more"')),
    Case("bom.csv", BOM + b"text,n\none,1\n", good("one")),
    Case("a.tsv", b"n\ttext\n1\tone, two\n", good("one, two")),
    Case("cr.csv", b'n,text\r1,one\r2,"two\rthree"\r', good("one", "two\rthree")),
    Case("a.csv.gz", gzip.compress(b"text\none\n"), good("one")),
    Case("zero.csv", b"text,n\na\0b,1\n", good("a\0b")),
    Case("short.csv", b"n,text\n1\n\n2,two\n3,\n", Outcome({3: "two"}, {1: NO_TEXT, 4: EMPTY})),
    Case("invalid.csv", b"text\n\xff\none\n", rejected(INVALID, 1, texts={2: "one"})),
    Case(
        "open.csv",
        b'text,n\none,1\n"two,2\nthree,3\n',
        rejected("a quote that is not closed", 2, texts={1: "one"}),
    ),
    Case(
        "long.csv",
        b'n,text\n1,"'
        + b'a "" ,\n' * 900
        + b'",x\n2,two\n3,'
        + LONG.encode() * 80
        + b'\n4,four\n5,5" disk\n',
        rejected(TOO_LARGE, 1, 3, texts={2: "two", 4: "four", 5: '5" disk'}),
    ),
    Case("utf16.csv", "text\none\n".encode("utf-16"), refused("has no line of column names")),
    Case("field.csv", b"body\none\n", refused("has no such field; it has 'body'")),
    Case("groups.parquet", parquet_file(RANDOM_ORDER, group=3), good(*RANDOM_ORDER), package="pyarrow"),
    Case(
        "repeated.parquet",
        parquet_file(["a", "b"] * 9, dictionary=True),
        good(*["a", "b"] * 9),
        package="pyarrow",
    ),
    Case("empty.parquet", parquet_file([], type="string"), Outcome({}, {}), package="pyarrow"),
    Case("a.parquet", parquet_file(RANDOM_ORDER), good(*RANDOM_ORDER), package="pyarrow"),
    Case(
        "cells.parquet",
        parquet_file([b"one", None, b"\xff", b" ", LONG.encode(), b"two"]),
        Outcome({1: "one", 6: "two"}, {2: NO_TEXT, 3: INVALID, 4: EMPTY, 5: TOO_LARGE}),
        package="pyarrow",
    ),
    Case("no.parquet", b"PAR1 no PAR1", refused("no.parquet' cannot be read"), package="pyarrow"),
    Case("file.arrow", arrow_file(RANDOM_ORDER, form="file"), good(*RANDOM_ORDER), package="pyarrow"),
    Case("stream.arrow", arrow_file(RANDOM_ORDER, form="stream"), good(*RANDOM_ORDER), package="pyarrow"),
    Case(
        "null.arrow",
        arrow_file(["one", None, LONG], form="file"),
        Outcome({1: "one"}, {2: NO_TEXT, 3: TOO_LARGE}),
        package="pyarrow",
    ),
    Case(
        "offsets.arrow",
        with_wild_offsets,
        refused("offsets.arrow' cannot be read"),
        package="pyarrow",
    ),
    Case("no.arrow", b"ARROW1 and no more", refused("no.arrow' cannot be read"), package="pyarrow"),
    Case("none.arrow", b"", refused("none.arrow' cannot be read"), package="pyarrow"),
]
DOCUMENTS = Outcome({1: [1, 2, 3], 2: [4, 5]}, {3: EMPTY})
SEQUENCES = np.array([1, 2, 3, END, 4, 5], "<u2").tobytes()


def megatron(name, content, outcome):
    return Case(f"{name}.bin", SEQUENCES, outcome, beside={f"{name}.idx": content})


ARRAYS = [
    Case("flat", BINARY, RUN, prefix="uint16:"),
    Case("flat.bin", TOKENS.astype("<u4").tobytes(), RUN, prefix="uint32:"),
    Case(
        "long.bin",
        np.array([1] * 1200 + [END, 2], "<u2").tobytes(),
        rejected(TOO_LARGE, 1, texts={2: [2]}),
        prefix="uint16:",
    ),
    Case("odd.bin", b"abc", refused("no whole number of tokens"), prefix="uint16:"),
    Case("alone.bin", BINARY, refused("is of no kind that is read")),
    Case("a.npy", npy_file(TOKENS.astype(">i8")), RUN),
    Case(
        "negative.npy",
        npy_file(np.array([1, -1, END, 2])),
        rejected("token id below zero", 1, texts={2: [2]}),
    ),
    Case("floats.npy", npy_file(np.array([1.0])), refused("it holds float64")),
    Case("matrix.npy", npy_file(np.array([[1, 2]])), refused("of shape (1, 2)")),
    Case("objects.npy", npy_file(np.array([{}, []], object), allow_pickle=True), refused("it holds object")),
    Case(
        "cut.npy",
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u2', 'fortran_order': False, 'shape': (9999,), }".ljust(127)
        + b"\n\1\0",
        refused("fewer than its 9,999"),
    ),
    Case("no.npy", b"text", refused("no.npy' cannot be read")),
    megatron("good", index([2, 2, 2], [0, 2, 3, 3]), DOCUMENTS),
    megatron(
        "places",
        index([2, 2, 2], [0, 2, 3, 3], places=[0, 4, 10]),
        refused("its index says that 2 tokens begin at byte 10"),
    ),
    megatron("negative_place", index([2], [0, 1], places=[-2]), refused("begin at byte -2")),
    megatron("negative_length", index([-2], [0, 1]), refused("sequences of less than no token")),
    megatron(
        "order",
        index([2, 2, 2], [0, 3, 2, 3]),
        refused("documents that are not made of all of its sequences"),
    ),
    megatron(
        "left_out", index([2, 2], [0, 1]), refused("documents that are not made of all of its sequences")
    ),
    megatron(
        "no_documents", index([2, 2], [0]), refused("documents that are not made of all of its sequences")
    ),
    megatron("outside", index([2], [0, 9]), refused("documents that are not made of all of its sequences")),
    megatron("claims", index([2], [0, 1], count=1 << 60), refused("which do not hold")),
    megatron("entries", index([2], [0, 1], entries=1 << 60), refused("which do not hold")),
    megatron("floats", index([2], [0, 1], code=6), refused("type 6")),
    megatron("version", index([2], [0, 1], version=2), refused("version 1")),
    megatron("short", b"MMIDIDX", refused("short.bin' cannot be read")),
    Case("tokens", litdata_folder([[[1, 2], [END, 3, END]], [[END, 4], [5]]]), RUN),
    Case("pickled", litdata_folder([[[1]]], data_format=["pickle"]), refused("is none of tokens")),
    Case("compressed", litdata_folder([[[1]]], compression="zstd"), refused("compression 'zstd'")),
]
