"""All parts of a file together read it about once, within bounded memory, however long its lines are."""

import io
import json
import random
import tracemalloc
from functools import partial

import numpy as np
import pytest

from shear_lit.data.text.documents import TOO_LARGE, found_in_line
from shear_lit.data.text.items import (
    EndlessLineError,
    chunks_of_range,
    items,
    lines_of_range,
    lines_of_stream,
)
from shear_lit.data.text.kinds.token_runs import ends_of
from shear_lit.data.text.records import TextField


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    taken = 0

    def read(self, size=-1):
        content = super().read(size)
        self.taken += len(content)
        return content

    def readline(self, size=-1):
        content = super().readline(size)
        self.taken += len(content)
        return content


def usable(line, limit=12):
    return line if len(line.rstrip(b"\n")) <= limit else TOO_LARGE


def next_of(arrays, _):
    return next(arrays, np.zeros(0, np.uint16))


def parts(size, step):
    return [(start, min(size, start + step)) for start in range(0, size, step)]


@pytest.mark.parametrize("limit", [1000, 1 << 23], ids=["too long", "long enough"])
def test_ranges_of_one_long_line_read_it_about_once(limit):
    """Twice, at most: a range inside a line reads itself, and the one where it begins all that may be used."""
    size, step = 1 << 22, 1 << 14
    file = Counted(b'{"text": "one"}\n' + b"x" * size + b"\n" + b'{"text": "two"}\n')
    found = [
        line
        for start, end in parts(len(file.getvalue()), step)
        for line in lines_of_range(file, start, end, limit)
    ]
    assert [len(line) for line in found] == [16, min(limit + 2, size + 1), 16]
    assert file.taken < 2.1 * size


def test_ranges_of_many_lines_read_them_about_once():
    content = b"".join(b"y" * (number % 3000) + b"\n" for number in range(2000))
    file, step = Counted(content), 1 << 15
    found = [
        line for start, end in parts(len(content), step) for line in lines_of_range(file, start, end, 5000)
    ]
    assert b"".join(found) == content
    assert file.taken < 1.3 * len(content)


def test_lines_are_those_of_the_file_wherever_it_is_cut():
    """Seeded: files of short, empty and long lines, with and without a last newline, in parts of 1 to 40 bytes."""
    draw = random.Random(5)
    for _ in range(150):
        content = b"".join(
            b"z" * draw.choice((0, 1, 5, 12, 13, 14, 60)) + b"\n" for _ in range(draw.randrange(8))
        )
        content = content[: len(content) - draw.randrange(2)]
        expected = [usable(line) for line in content.splitlines(keepends=True)]
        for step in (1, 2, 7, 13, 40):
            ranges = parts(len(content), step)
            found = [
                usable(line) for part in ranges for line in lines_of_range(io.BytesIO(content), *part, 12)
            ]
            assert found == expected, (content, step)
        assert [usable(line) for line in lines_of_stream(io.BytesIO(content), 12)] == expected


def test_a_line_of_exactly_the_limit_is_read_and_one_more_byte_is_too_large():
    line = json.dumps({"text": "x"}).encode()
    for content in (line, line + b"\n"):
        assert found_in_line(1, content, TextField("text").text_of_line, limit=len(line)).text == "x"
        assert (
            found_in_line(1, content, TextField("text").text_of_line, limit=len(line) - 1).reason == TOO_LARGE
        )


def test_long_lines_are_skipped_within_bounded_memory():
    """A stream of 64 MB in one line takes less than 4 MB."""

    class Endless(io.RawIOBase):
        left = 1 << 26

        def read(self, size=-1):
            self.left -= size
            return b"x" * size if self.left >= 0 else b""

    tracemalloc.start()
    try:
        (line,) = lines_of_stream(Endless(), 1000)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(line) == 1002 and most < 1 << 22


def test_a_stream_with_a_line_without_end_is_refused_at_its_place(monkeypatch):
    monkeypatch.setattr("shear_lit.data.text.items.MOST_LINE_BYTES", 1 << 18)
    with pytest.raises(
        EndlessLineError, match=r"the line at byte 6 of what it holds has more than 262,144 bytes"
    ):
        list(lines_of_stream(io.BytesIO(b"first\n" + b"x" * (1 << 20)), 10))


def test_runs_of_tokens_are_those_of_the_array_wherever_it_is_cut():
    draw = random.Random(6)
    for _ in range(50):
        tokens = np.array([draw.choice((0, 1, 2, 3)) for _ in range(draw.randrange(60))], np.uint16)
        whole = [run.tolist() for run in np.split(tokens, np.flatnonzero(tokens == 0) + 1) if len(run)]
        for step in (1, 3, 17):
            found = []
            for start, end in parts(len(tokens), step):
                at = max(0, start - 1)
                rest = iter([tokens[at:end], *np.array_split(tokens[end:], 5)])
                runs = items(
                    chunks_of_range(partial(next_of, rest), at, end),
                    lambda chunk: ends_of(chunk, 0),
                    limit=1000,
                    position=at,
                    end=end,
                    begun=not start,
                )
                found += [np.concatenate(run).tolist() for run in runs]
            assert found == whole
