"""Pictures for loggers: their pixels are the numbers."""

import pytest
import torch

from shear_lit.reporting.pictures import gates_picture, mixture_picture, shape_picture
from shear_lit.theory.shape import Axis, ModelShape

SHAPE = ModelShape(layers=3, hidden=8, query_heads=4, kv_heads=2, intermediate=6)


@pytest.mark.parametrize("axis", Axis)
def test_gates_that_are_open_have_ink_and_closed_ones_have_none(axis):
    shape = SHAPE.gate_shape(axis)
    opened, closed = gates_picture(axis, torch.ones(shape)), gates_picture(axis, torch.zeros(shape))
    assert opened.dtype == torch.uint8 and opened.shape == closed.shape and opened.shape[2] == 3
    assert (closed == 255).all() and (opened == torch.tensor([38, 112, 196])).all()


def test_rows_of_a_picture_are_blocks():
    chances = torch.zeros(SHAPE.gate_shape(Axis.KV_HEADS))
    chances[1, 0] = 1
    dark = (gates_picture(Axis.KV_HEADS, chances) < 255).any(-1)
    height, width = dark.shape
    assert dark[height // 3 : 2 * height // 3, : width // 2].all()
    assert dark.float().mean() == pytest.approx(1 / 6)


def test_areas_of_the_mixture_are_its_shares_over_time():
    changes = [(0, {"code": 0.25, "law": 0.75}), (5, {"code": 0.5, "law": 0.5})]
    picture = mixture_picture(changes, 10)
    first = (picture == picture[-1, 0]).all(-1).float()
    assert first[:, :256].mean() == pytest.approx(0.25) and first[:, 256:].mean() == pytest.approx(0.5)


def test_bars_of_the_shape_are_what_is_expected_to_stay():
    chances = {Axis.LAYERS: torch.tensor([1.0, 0.0, 0.5]), Axis.INTERMEDIATE: torch.full((3, 6), 0.5)}
    picture = shape_picture(SHAPE, chances)
    ink = (picture == torch.tensor([38, 112, 196])).all(-1).float()
    lengths = [ink[block * 12].sum().item() for block in range(3)]
    assert lengths[1] == 0 and lengths[0] == pytest.approx(2 * lengths[2], abs=2)
    assert lengths[0] == pytest.approx(153 + (512 - 165) / 2, abs=2)


def test_70b_shape_is_a_small_picture():
    picture = gates_picture(Axis.INTERMEDIATE, torch.rand(80, 28672))
    assert picture.shape[1] <= 512 and picture.shape[0] <= 1000
