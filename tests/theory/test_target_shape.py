"""Targets that name only the axes that change: what they mean of a source, and what they refuse."""

import pytest

from shear_lit.theory.shape import ModelShape, ShapeError, TargetShape

GROUPED = ModelShape(layers=4, hidden=48, query_heads=12, kv_heads=4, intermediate=40)
ALONE = ModelShape(layers=4, hidden=48, query_heads=12, kv_heads=12, intermediate=40)


def completed(source, **sizes):
    shape = TargetShape(**sizes).completed(source)
    return shape.query_heads, shape.kv_heads


@pytest.mark.parametrize("name", ["layers", "hidden", "intermediate"])
def test_one_axis_leaves_the_others_as_they_are(name):
    expected = ModelShape(**{**GROUPED.to_dict(), name: 2})
    assert TargetShape(**{name: 2}).completed(GROUPED) == expected
    assert type(TargetShape(**{name: 2}).completed(GROUPED)) is ModelShape


def test_kv_heads_take_their_query_heads_with_them():
    assert completed(GROUPED, kv_heads=2) == (6, 2)
    assert completed(ALONE, kv_heads=5) == (5, 5)


def test_query_heads_leave_the_kv_heads_of_groups_and_take_their_own_without_groups():
    assert completed(GROUPED, query_heads=8) == (8, 4)
    assert completed(ALONE, query_heads=5) == (5, 5)


def test_both_kinds_of_heads_are_taken_as_they_are():
    assert completed(GROUPED, query_heads=2, kv_heads=1) == (2, 1)


def test_query_heads_that_the_sources_kv_heads_do_not_divide_are_refused_with_both_ways_out():
    with pytest.raises(ShapeError) as error:
        TargetShape(query_heads=6).completed(GROUPED)
    message = str(error.value)
    assert message.startswith("target.query_heads=6 cannot be split over kv_heads=4")
    assert "Use query_heads=4 or 8. Or give target.kv_heads, too" in message
    assert error.value.key == "target.query_heads"
    with pytest.raises(ShapeError, match=r"^target\.query_heads=5 cannot be split over kv_heads=2") as error:
        TargetShape(query_heads=5, kv_heads=2).completed(GROUPED)
    assert "too" not in str(error.value)


def test_target_of_nothing_is_refused():
    with pytest.raises(ShapeError, match=r"^target=\{\} names no axis.*Give at least one of layers, hidden"):
        TargetShape()


@pytest.mark.parametrize("size", [0, -1, True])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ShapeError, match=r"^target\.layers=.* is no size") as error:
        TargetShape(layers=size)
    assert error.value.key == "target.layers"


def test_whole_shape_is_a_target_that_means_itself():
    assert isinstance(GROUPED, TargetShape)
    assert GROUPED.completed(ALONE) is GROUPED
    assert TargetShape(layers=2, hidden=3).to_dict() == {"layers": 2, "hidden": 3}


def test_whole_shape_must_name_every_axis():
    with pytest.raises(TypeError):
        ModelShape(layers=2, hidden=48)
