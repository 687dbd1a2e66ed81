"""Whatever a file holds, its documents are read rightly or rejected with their place, or one line says why not."""

import logging
import random
from dataclasses import dataclass

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.text.documents import BLANK
from shear_lit.data.text.pieces import documents, pieces
from shear_lit.data.text.records import TextField
from shear_lit.data.text.sources import find_sources
from tests.data.text.cases import END, LIMIT
from tests.data.text.corpus import CORPUS


@dataclass(frozen=True)
class Reads:
    """How the corpus is read."""

    unit_bytes: int = 1 << 20
    text_field: str = "text"
    max_document_bytes: int = LIMIT
    end_of_text: int | None = END

    @property
    def records(self):
        return TextField(self.text_field)


def read(name, reads):
    """All documents of an input by their number in it, its rejects, and its pieces."""
    found, rejects, before = {}, {}, 0
    cut = list(pieces(find_sources({"web": name}), reads))
    for piece in cut:
        number = 0
        for number, (told, text, reason, tokens) in enumerate(documents(piece, reads), start=1):
            assert told == number and bool(reason) != bool(text or tokens is not None)
            if not reason:
                found[before + number] = text if tokens is None else tokens.tolist()
            elif reason != BLANK:
                rejects[before + number] = reason
                assert "\n" not in piece.place(number, before)
        before += number
    return found, rejects, cut


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_corpus_gives_what_it_must_however_it_is_cut(case, tmp_path, caplog):
    name = case.write(tmp_path)
    for unit_bytes in (1 << 20, 300, 64, 7):
        reads = Reads(unit_bytes=unit_bytes)
        if case.outcome.refusal:
            with pytest.raises(DataError) as told:
                read(name, reads)
            assert case.outcome.refusal in str(told.value) and "\n" not in str(told.value)
            continue
        found, rejects, cut = read(name, reads)
        assert (found, rejects) == case.outcome[:2], unit_bytes
        assert cut == read(name, reads)[2]
        size = sum(source.bytes for source in find_sources({"web": name}))
        assert not cut or sum(piece.bytes for piece in cut) == size
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def damaged(content, draw):
    """Bytes that are changed, left out or put in at one to three places."""
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(changed) + 1)
        changed[at : at + draw.randrange(4)] = draw.choice(
            (b"", b'"', b"\n", b"[", b"}", b",", b"\0", b"\xff\xff")
        )
    return bytes(changed)


def told(name, unit_bytes):
    try:
        return read(name, Reads(unit_bytes=unit_bytes))[:2]
    except DataError as error:
        return "\n" in str(error)


def test_damaged_files_are_read_or_refused_the_same_way_however_they_are_cut(tmp_path):
    """Seeded: a damage to each file; nothing but a line of refusal ends the reading."""
    draw = random.Random(7)
    for number, case in enumerate(CORPUS):
        if case.package == "pyarrow":  # Parquet has no checksums, and its readers have faults of their own
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        name = case.write(folder)
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            content = path.read_bytes()
            path.write_bytes(damaged(content, draw))
            assert told(name, 1 << 20) == told(name, 50) is not True, case.name
            path.write_bytes(content)


def test_corpus_has_every_kind_and_many_files():
    assert len(CORPUS) >= 40 and len({case.name for case in CORPUS}) == len(CORPUS)
