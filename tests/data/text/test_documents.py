"""What tells two documents apart, and what is read from a record."""

import random
import sys
import unicodedata

import pytest

from shear_lit.data.text.documents import NESTED, document_hash, folded, text_of_record

EVERY = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Two  words\n", "two WORDS"),
        ("Straße", "STRASSE"),
        ("café", "cafe\u0301"),
        ("ﬁle ①", "file 1"),
        ("\uff21\uff22\uff23", "abc"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),
        ("\ufeffone", "one"),
        ("on\u200be\u2060\u200d", "one"),
        ("one\0", "ONE"),
        ("caf\ufeffe\u0301\0", "CAFÉ"),
        ("\u1e9b\u0323", "\u1e69"),
    ],
)
def test_documents_that_look_the_same_have_one_hash(one, other):
    assert document_hash(one) == document_hash(other) and len(document_hash(one)) == 16


@pytest.mark.parametrize(
    ("one", "other"), [("ab", "a b"), ("a", "b"), ("a", "á"), ("\u0131", "i"), ("ж", "z")]
)
def test_documents_that_look_different_have_two_hashes(one, other):
    assert document_hash(one) != document_hash(other)


def test_folding_again_changes_nothing_whatever_the_character():
    """Each character of Unicode alone; and, seeded, in company, where marks that meet are put in order and joined."""
    marked = [character for character in EVERY if unicodedata.combining(character)]
    changed = [c for c in EVERY if c.casefold() != c or unicodedata.normalize("NFKC", c) != c]
    draw = random.Random(3)
    company = [
        "".join((draw.choice(changed), *draw.choices(marked, k=2), draw.choice(changed), draw.choice(marked)))
        for _ in range(20_000)
    ]
    for text in (*changed, *company):
        once = folded(text)
        assert folded(once) == once, ascii(text)
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert folded(unicodedata.normalize(form, text)) == once, (form, ascii(text))


def test_lines_that_are_folded_apart_are_folded_as_the_whole_text():
    """Marks at the ends of lines among them, and signs that nobody sees; with the definition of it written out."""

    unseen = "\0\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"

    def whole(text):
        text = unicodedata.normalize("NFKC", "".join(c for c in text if c not in unseen))
        while (again := unicodedata.normalize("NFKC", text.casefold())) != text:
            text = again
        return " ".join(text.split())

    draw = random.Random(4)
    signs = ["\n", "\n", "\r", "\x85", "\u2028", " ", "\0", "\u200b", "\ufeff", "a", "B", "\u0301", "\u0323"]
    for _ in range(10_000):
        text = "".join(
            draw.choice((draw.choice(EVERY), draw.choice(signs), draw.choice(signs))) for _ in range(9)
        )
        assert folded(text) == whole(text), ascii(text)


@pytest.mark.parametrize(
    "string", [r"\"", r"\\", r"\\\"", r"a\\\\", "[" * 300, r"\"[{" * 100, r"\\\"]" * 100]
)
def test_brackets_count_outside_of_strings_alone(string):
    for lists, reason in ((199, ""), (200, NESTED)):
        line = f'{{"text": "one", "s": "{string}", "n": {"[" * lists}{"]" * lists}}}'
        assert text_of_record(line.encode(), "text") == ("" if reason else "one", reason), lists


def test_numbers_of_any_length_beside_the_text_do_not_matter():
    for number in ("9" * 100_000, "-" + "1" * 5000, "1" * 5000 + ".5e9999", "NaN"):
        assert text_of_record(b'{"n": %s, "text": "one"}' % number.encode(), "text") == ("one", "")


def test_what_is_too_deep_does_not_depend_on_who_asks():
    """Python's parser can go less deep where it is called from far down."""
    deep = {depth: b'{"text": "one", "n": ' + b"[" * depth + b"]" * depth + b"}" for depth in (199, 200)}

    def asked_from(depth, line):
        return asked_from(depth - 1, line) if depth else text_of_record(line, "text")

    for depth in (0, 500):
        assert asked_from(depth, deep[199]) == ("one", "") and asked_from(depth, deep[200]) == ("", NESTED)


def test_quotes_without_end_are_looked_through_once():
    """A million escaped quotes in a string that is not closed, between more brackets than may be nested."""
    line = b'{"a": [' * 300 + b'"' + b'\\"' * 1_000_000
    assert text_of_record(line, "text")[1] == NESTED
    assert text_of_record(b"[]" * 300 + b'"' + b'\\"' * 1_000_000, "text")[1] == "malformed JSON"
