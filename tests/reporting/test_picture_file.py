"""Pictures of a card: whole files that any program shows, with what the page's own drawings show."""

import re
from xml.etree import ElementTree

import pytest
import torch

from shear_lit.reporting.card_pictures import loss_picture_file, shape_picture_file
from shear_lit.reporting.picture_file import picture_file
from shear_lit.reporting.run_page.facts import Cut
from shear_lit.reporting.run_page.lines import Line, line_chart
from shear_lit.reporting.run_page.scales import Range
from shear_lit.theory.shape import Axis, ModelShape

SVG = "{http://www.w3.org/2000/svg}"
SOURCE = ModelShape(layers=6, hidden=32, query_heads=8, kv_heads=4, intermediate=96)
TARGET = ModelShape(layers=3, hidden=16, query_heads=4, kv_heads=2, intermediate=48)
SERIES = {
    "loss/language": tuple((step, 4 - step / 10) for step in range(1, 11)),
    "loss/validation/code": ((0, 3.0), (10, 2.0)),
    "loss/validation/law": ((0, 3.5), (10, 2.5)),
    "loss/validation/mean": ((0, 3.25), (10, 2.25)),
}


def cut():
    rows = {axis: torch.arange(TARGET.units(axis)).expand(6, -1) for axis in Axis if axis is not Axis.LAYERS}
    kept = {**rows, Axis.LAYERS: torch.tensor([0, 2, 5]), Axis.HIDDEN: torch.arange(16)}
    return Cut(shape=TARGET, kept=kept, meaning="")


def words_of(file):
    return [each.text for each in ElementTree.fromstring(file).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    "file", [shape_picture_file(SOURCE, cut()), loss_picture_file(SERIES, {"code": 1.9})]
)
def test_file_is_whole_small_and_asks_for_nothing(file):
    root = ElementTree.fromstring(file)
    assert root.tag == f"{SVG}svg" and len(file) < 30_000
    assert not re.search(r"var\(|<script|href|url\(|@import|hover|<!DOCTYPE", file)
    assert float(root.get("width")) >= 720 and root.find(f"{SVG}title").text
    assert root.find(f"{SVG}rect").get("fill") == "#fff"  # paper of its own: it is shown on dark pages, too


def test_shape_shows_every_block_of_the_source_and_those_that_stay():
    file = shape_picture_file(SOURCE, cut())
    assert file.count('class="gone"') == 2 * 6 + 1
    assert file.count('class="stays"') == 2 * (2 * 3 + 1)


def test_losses_are_named_with_their_references_once():
    words = words_of(loss_picture_file(SERIES, {"code": 1.9, "law": 2.4}))
    assert words.count("code") == 1 and words.count("law") == 1
    assert "dashed: the reference" in " ".join(words)
    assert "reference" not in " ".join(words_of(loss_picture_file(SERIES, {})))


def test_of_many_domains_their_mean_is_shown():
    many = {f"loss/validation/{n}": ((0, 3.0), (10, 2.0)) for n in range(40)}
    file = loss_picture_file({**SERIES, **many}, {"1": 1.0})
    assert file.count("polyline") == 2 and "reference" not in file


def test_run_without_losses_has_no_picture():
    assert loss_picture_file({}, {}) is None


def test_names_are_text_and_long_ones_stay_inside():
    bad = '<script>&"' * 3 + "x" * 200
    chart = line_chart(
        "a",
        [Line(label=bad, points=[(0, 1.0), (1, 2.0)], colour=n) for n in range(2)],
        Range(0, 1),
        Range(0, 3),
    )
    file = picture_file(bad, [(bad, chart)])
    root = ElementTree.fromstring(file)
    assert root.find(f"{SVG}title").text == bad and "<script" not in file
    width = float(root.get("width"))
    captions = root.findall(f"{SVG}text[@class='caption']")
    assert all(len(each.text) <= 45 for each in captions)  # of bold letters in 360 pixels
    labels = [each for each in root.findall(f"{SVG}text") if each.get("class") is None]
    assert len(labels) == 2 and all(float(each.get("x")) + 6.4 * len(each.text) <= width for each in labels)
