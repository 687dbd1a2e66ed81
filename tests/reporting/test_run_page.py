"""The page of a run: its figures are those of the facts, its pictures are, too, and it loads nothing."""

import base64
import re
import struct
import zlib
from html.parser import HTMLParser

import pytest
import torch

from shear_lit.reporting.run_page.cells import cells_picture
from shear_lit.reporting.run_page.facts import PlainTable, RunFacts
from shear_lit.reporting.run_page.lines import HEIGHT, Line, line_chart
from shear_lit.reporting.run_page.markup import few, number
from shear_lit.reporting.run_page.page import run_page
from shear_lit.reporting.run_page.scales import Range, range_of

CURVE = tuple((step, 4 - step / 1000) for step in range(1, 3201))


def facts(**changes):
    given = dict(name="run", state="it has ended", ended=True, config={}, series={"loss/language": CURVE})
    return RunFacts(**(given | changes))


class Cells(HTMLParser):
    """Rows of every table of a page."""

    def __init__(self, page):
        super().__init__()
        self.rows, self._open = [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._open = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        if self._open:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._open = False

    def handle_data(self, data):
        if self._open:
            self.rows[-1][-1] += data


def test_table_of_a_page_has_the_numbers_of_the_run():
    steps = [step for step, _ in few(CURVE, 12)]
    row = next(row for row in Cells(run_page([facts()])).rows if row[0] == "loss/language")
    assert row[1:] == [number(dict(CURVE)[step]) for step in steps]
    assert steps[0] == 1 and steps[-1] == 3200


def drawn(chart, y):
    """The values that a line goes through, read back from where it is drawn."""
    outline = re.search(r'polyline class="line [^"]*" points="([^"]*)"', str(chart))[1]
    heights = [float(point.split(",")[1]) for point in outline.split()]
    return [y.low + (HEIGHT - 34 - at) / (HEIGHT - 8 - 34) * (y.high - y.low) for at in heights]


def test_line_is_drawn_where_its_numbers_are():
    y = range_of([1.0, 5.0])
    points = [(0, 1.0), (10, 5.0), (20, 2.5)]
    found = drawn(line_chart("curve", [Line(label="a", points=points)], Range(0, 20), y), y)
    assert found == pytest.approx([1.0, 5.0, 2.5], abs=0.02)
    moved = drawn(line_chart("curve", [Line(label="a", points=[(0, 1.0), (10, 4.0)])], Range(0, 20), y), y)
    assert moved != pytest.approx([1.0, 5.0], abs=0.02)


def test_thinned_line_keeps_its_peaks():
    points = [(float(step), 0.0) for step in range(5000)]
    points[1234] = (1234.0, 7.0)
    y = range_of([0.0, 7.0])
    assert max(
        drawn(line_chart("curve", [Line(label="a", points=points)], Range(0, 5000), y), y)
    ) == pytest.approx(7.0, abs=0.05)


def opacities(picture):
    """What the cells of a picture show, read from its PNG without a library that might be lenient."""
    content = base64.b64decode(re.search(r"base64,([^\"]*)", str(picture))[1])
    width, height = struct.unpack(">II", content[16:24])
    start = content.index(b"IDAT") + 4
    size = struct.unpack(">I", content[start - 8 : start - 4])[0]
    lines = zlib.decompress(content[start : start + size])
    rows = [list(lines[row * (width + 1) + 1 : (row + 1) * (width + 1)]) for row in range(height)]
    return torch.tensor(rows) / 255


def test_cells_are_as_opaque_as_their_numbers():
    rows = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    picture = cells_picture("gates", rows, unit="heads", said=["a row"] * 5)
    torch.testing.assert_close(opacities(picture), rows, atol=0.5 / 255 + 1e-6, rtol=0)
    rows[2, 3] = 1 - rows[2, 3]
    assert not torch.allclose(opacities(picture), rows, atol=0.01)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 0), (1e-9, 2e-9), (0, 70e9), (480, 480.001), (5, 5)]
)
def test_ticks_are_few_inside_and_rising(low, high):
    shown = range_of([low, high])
    ticks = shown.ticks(5)
    assert 1 <= len(ticks) <= 6 and ticks == sorted(ticks)
    assert all(-1e-6 <= shown.share(tick) <= 1 + 1e-6 for tick in ticks)


def test_page_loads_nothing_and_runs_nothing():
    page = run_page([facts()])
    assert "default-src 'none'" in page and "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', page) == []


def test_page_shows_text_of_files_as_text():
    bad = '<script>alert("x")</script>'
    found = PlainTable(title=bad, heads=(bad,), rows=((bad,),), said=bad)
    series = {f"loss/validation/{bad}": ((1, 2.0),), bad: ((1, 2.0),), f"size/{bad}/expected": ((1, 2.0),)}
    run = facts(name=bad, config={bad: {bad: bad}}, series=series, tables=(found,), notes=(bad,))
    page = run_page([run, facts()])
    assert "<script" not in page and "alert(" in page


def test_page_of_a_run_that_reported_nothing_says_so():
    page = run_page([facts(series={}, state="it stopped before its end", ended=False)])
    assert "No validation loss was reported" in page and "0 of an unknown number of steps" in page


def test_two_runs_share_their_axes_and_show_what_differs():
    short = facts(name="short", series={"loss/language": ((1, 9.0), (10, 8.0))}, config={"data": {"seed": 1}})
    long = facts(name="long", config={"data": {"seed": 2}, "model": {"pruning": {"axes": ["layers"]}}})
    page = run_page([short, long])
    assert page.count('aria-label="cross-entropy with the text (nats per token)"') == 1
    assert ["data.seed", "1", "2"] in Cells(page).rows


def test_whole_group_that_only_one_run_has_is_one_row():
    on = facts(name="on", config={"pruning": {"axes": "layers", "target": {"hidden": 4}}})
    off = facts(name="off", config={"pruning": None})
    rows = Cells(run_page([on, off])).rows
    assert ["pruning", "2 settings", "null"] in rows
    assert not any(row[0] == "pruning.axes" and len(row) == 3 for row in rows)
