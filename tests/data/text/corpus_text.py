"""Odd and hostile files of lines, JSON and text, plain and compressed."""

import bz2
import gzip
import json
import lzma

import pytest

from shear_lit.data.text.documents import EMPTY, INVALID, MALFORMED, NESTED, TOO_LARGE, UTF_16
from tests.data.text.cases import (
    BOM,
    LIMIT,
    LONG,
    NO_TEXT,
    ONE,
    TWO,
    Case,
    Outcome,
    good,
    line,
    refused,
    rejected,
)


def zstd(content):
    zstandard = pytest.importorskip("zstandard")
    return zstandard.ZstdCompressor().compress(content)


def zstd_file(content, cut=None):
    return lambda path: path.write_bytes(zstd(content)[:cut])


EXACT = "y" * (LIMIT - len(line("")) + 1)  # its line has LIMIT bytes and a newline
PRETTY = json.dumps(
    [{"text": "one [{,"}, {"text": 'tw"o\\', "more": [1, {"a": []}]}, {"body": "x"}], indent=2
)

LINES = [
    Case(
        "digits.jsonl",
        b'{"n": ' + b"9" * 5000 + b', "text": "one"}\n' + TWO,
        rejected(TOO_LARGE, 1, texts={2: "two"}),
    ),
    Case("digits_short.jsonl", line("one", n=0).replace(b"0", b"9" * 1900, 1) + TWO, good("one", "two")),
    Case("numbers.jsonl", b'{"a": 1e999, "b": NaN, "c": -Infinity, "text": "one"}\n', good("one")),
    Case("deep_first.jsonl", b"[" * 1500 + b"\n" + ONE, rejected(NESTED, 1, texts={2: "one"})),
    Case("deep_last.json", ONE + b'{"a":' * 300 + b"\n", rejected(NESTED, 2, texts={1: "one"})),
    Case("deep_in_text.jsonl", line("[{" * 500 + '"'), good("[{" * 500 + '"')),
    Case("bom.jsonl", BOM + ONE + TWO, good("one", "two")),
    Case("bom_between.jsonl", ONE + BOM + TWO, good("one", "two")),
    Case("bom_alone.jsonl", BOM, Outcome({}, {})),
    Case("utf16.jsonl", "".join(map(bytes.decode, (ONE, TWO))).encode("utf-16"), rejected(UTF_16, 1, 2, 3)),
    Case("utf16_be.jsonl", ONE.decode().strip().encode("utf-16-be"), rejected(UTF_16, 1)),
    Case("surrogate.jsonl", b'{"text": "a\\ud800"}\n' + ONE, rejected(INVALID, 1, texts={2: "one"})),
    Case("surrogates.jsonl", b'{"text": "\\ud83d\\ude00"}\n', good("\U0001f600")),
    Case("zero_escape.jsonl", b'{"text": "a\\u0000b"}\n', good("a\0b")),
    Case("zero_byte.jsonl", b'{"text": "a\0b"}\n' + ONE, rejected(UTF_16, 1, texts={2: "one"})),
    Case("hole.jsonl", ONE + bytes(1000) + b"\n" + TWO, rejected(UTF_16, 2, texts={1: "one", 3: "two"})),
    Case("crlf.jsonl", ONE.replace(b"\n", b"\r\n") + b"\r\n" + TWO, Outcome({1: "one", 3: "two"}, {})),
    Case("cr.jsonl", (ONE + TWO).replace(b"\n", b"\r"), rejected(MALFORMED)),
    Case(
        "twice.jsonl",
        b'{"text": "a", "text": "b"}\n' + ONE,
        rejected("field 'text' twice", 1, texts={2: "one"}),
    ),
    Case("twice_same.jsonl", b'{"text": "a", "type": "text", "text": "a"}\n', good("a")),
    Case("twice_inside.jsonl", b'{"x": {"text": "b"}, "text": "a"}\n', good("a")),
    Case(
        "no_text.jsonl",
        b'{"text": 1}\n{"text": null}\n{"text": ["a"]}\n[1]\n"text"\n3\n{}\n' + ONE,
        rejected(NO_TEXT, 1, 2, 3, 4, 5, 6, 7, texts={8: "one"}),
    ),
    Case("blank.jsonl", b"\n  \n" + ONE + b"\t\n\n" + TWO[:-1], Outcome({3: "one", 6: "two"}, {})),
    Case("only_blank.jsonl", b"\n\n \n", Outcome({}, {})),
    Case("empty_text.jsonl", line("") + line(" \n\u3000") + ONE, rejected(EMPTY, 1, 2, texts={3: "one"})),
    Case("separator.jsonl", line("a\u2028b\x85c") + TWO, good("a\u2028b\x85c", "two")),
    Case("invalid.jsonl", b'{"text": "\xff"}\n' + ONE, rejected(INVALID, 1, texts={2: "one"})),
    Case("cut_off.jsonl", ONE + TWO[:9], rejected(MALFORMED, 2, texts={1: "one"})),
    Case("long.jsonl", ONE + line(LONG) + TWO, rejected(TOO_LARGE, 2, texts={1: "one", 3: "two"})),
    Case(
        "longer.jsonl",
        line(LONG * 20) + ONE + line(LONG * 9)[:-1],
        rejected(TOO_LARGE, 1, 3, texts={2: "one"}),
    ),
    Case(
        "exact.jsonl",
        line(EXACT) + line(EXACT + "y") + line(EXACT)[:-1],
        rejected(TOO_LARGE, 2, texts={1: EXACT, 3: EXACT}),
    ),
    Case("empty.jsonl", b"", Outcome({}, {})),
]
JSON_FILES = [
    Case("lines.json", ONE + TWO, good("one", "two")),
    Case("pretty.json", PRETTY.encode(), rejected(NO_TEXT, 3, texts={1: "one [{,", 2: 'tw"o\\'})),
    Case(
        "pretty_crlf.json",
        BOM + PRETTY.replace("\n", "\r\n").encode(),
        rejected(NO_TEXT, 3, texts={1: "one [{,", 2: 'tw"o\\'}),
    ),
    Case("one_line.json", b'[{"text": "one"},{"text": "two"}]\n', good("one", "two")),
    Case("no_records.json", b" [ ] \n", Outcome({}, {})),
    Case(
        "bad_records.json",
        b'[{"text": "one"}, {"text": nothing}, {"text": "a\nb"},, {"text": "two"}, ]',
        rejected(MALFORMED, 2, 3, 4, 6, texts={1: "one", 5: "two"}),
    ),
    Case("long_record.json", b"[" + line(LONG) + b"," + ONE + b"]", rejected(TOO_LARGE, 1, texts={2: "one"})),
    Case("cut_off.json", b'[{"text": "one"}, {"te', refused("it ends inside its array")),
    Case("goes_on.json", b'[{"text": "one"}] [1]', refused("it goes on after its array")),
    Case(
        "object.json",
        json.dumps({"text": "one", "n": 1}, indent=1).encode(),
        refused("one JSON object on many lines"),
    ),
    Case(
        "array.json.gz",
        gzip.compress(PRETTY.encode()),
        rejected(NO_TEXT, 3, texts={1: "one [{,", 2: 'tw"o\\'}),
    ),
]
COMPRESSED = [
    Case("a.jsonl.gz", gzip.compress(BOM + ONE) + gzip.compress(TWO), good("one", "two")),
    Case("a.jsonl.bz2", bz2.compress(ONE) + bz2.compress(TWO[:-1]), good("one", "two")),
    Case("a.jsonl.xz", lzma.compress(ONE) + bytes(8) + lzma.compress(TWO) + bytes(4), good("one", "two")),
    Case(
        "a.jsonl.zst",
        lambda path: path.write_bytes(zstd(ONE) + zstd(TWO)),
        good("one", "two"),
        package="zstandard",
    ),
    Case(
        "long.jsonl.xz",
        lzma.compress(line(LONG * 30) + b"\n" + ONE),
        rejected(TOO_LARGE, 1, texts={3: "one"}),
    ),
    Case("utf16.jsonl.gz", gzip.compress(ONE.decode().encode("utf-16")), rejected(UTF_16, 1, 2)),
    Case("cut.jsonl.gz", gzip.compress(ONE * 50)[:-9], refused("cut.jsonl.gz' cannot be read")),
    Case("cut.jsonl.bz2", bz2.compress(ONE * 50)[:-9], refused("it ends inside a frame")),
    Case("cut.jsonl.xz", lzma.compress(ONE * 50)[:-9], refused("it ends inside a frame")),
    Case("cut.jsonl.zst", zstd_file(ONE * 50, -3), refused("it ends inside a frame"), package="zstandard"),
    Case("garbage.jsonl.bz2", bz2.compress(ONE) + b"more", refused("garbage.jsonl.bz2' cannot be read")),
    Case("garbage.jsonl.xz", lzma.compress(ONE) + b"more", refused("garbage.jsonl.xz' cannot be read")),
    Case("nothing.jsonl.gz", b"", refused("it is empty, which no archive is")),
    Case("no_archive.jsonl.xz", ONE, refused("no_archive.jsonl.xz' cannot be read")),
]
TEXTS = [
    Case("a.txt", b"one\r\ntwo\rthree\xe2\x80\xa8", good("one\r\ntwo\rthree\u2028")),
    Case("bom.txt", BOM + b"one", good("one")),
    Case("bom_twice.md", b"a" + BOM + b"b", good("a\ufeffb")),
    Case("utf16.txt", "one".encode("utf-16"), rejected(UTF_16)),
    Case("utf16_bare.txt", "some words".encode("utf-16-le"), rejected(UTF_16)),
    Case("zeros.txt", bytes(100), rejected(UTF_16)),
    Case("a_zero.txt", b"some words\0 more", good("some words\0 more")),
    Case("empty.txt", b"", rejected(EMPTY)),
    Case("only_bom.txt", BOM, rejected(EMPTY)),
    Case("latin.txt", "é".encode("latin-1"), rejected(INVALID)),
    Case("surrogate.txt", b"\xed\xa0\x80", rejected(INVALID)),
    Case("long.txt", LONG.encode(), rejected(TOO_LARGE)),
    Case("a.txt.gz", gzip.compress(b"one\n" * 3), good("one\n" * 3)),
    Case("a.md.bz2", bz2.compress(b"one\ntwo"), good("one\ntwo")),
    Case("a.txt.xz", lzma.compress(BOM + b"one"), good("one")),
    Case("a.txt.zst", zstd_file(b"one"), good("one"), package="zstandard"),
    Case("bomb.txt.xz", lzma.compress(bytes(1 << 24)), rejected(TOO_LARGE)),
    Case("cut.txt.gz", gzip.compress(b"one" * 90)[:-9], refused("cut.txt.gz' cannot be read")),
    Case("README", b"one", good("one")),
    Case("Makefile", b"all:\n\tone\n", good("all:\n\tone\n")),
    Case("Dockerfile", b"FROM one", good("FROM one")),
    Case("a name\nof two lines.txt", b"", rejected(EMPTY)),
    Case("unknown", b"one", refused("is of no kind that is read")),
    Case("a.gz", gzip.compress(b"one"), refused("is of no kind that is read")),
    Case("a.docx", b"PK", refused("is of no kind that is read")),
]
