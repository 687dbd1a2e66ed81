"""Model shapes: what they refuse and how they say it, and the gates they ask for."""

import dataclasses

import pytest

from shear_lit.theory.shape import Axis, ModelShape, ShapeError, shrinking_axes

SMOLLM2 = ModelShape(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536)
LLAMA2_7B = ModelShape(layers=32, hidden=4096, query_heads=32, kv_heads=32, intermediate=11008)
SHEARED_1_3B = ModelShape(layers=24, hidden=2048, query_heads=16, kv_heads=16, intermediate=5504)


def other(shape, **sizes):
    return dataclasses.replace(shape, **sizes)


def refusal(call):
    with pytest.raises(ShapeError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("name", ["layers", "hidden", "query_heads", "kv_heads", "intermediate"])
@pytest.mark.parametrize("size", [0, -3])
def test_size_below_one_is_refused_with_key_value_rule_and_repair(name, size):
    message = refusal(lambda: other(SMOLLM2, **{name: size}))
    assert f"{name}={size}" in message
    assert "at least 1 unit" in message
    assert "Use 1 or more" in message


@pytest.mark.parametrize(
    ("query_heads", "kv_heads", "repair"), [(10, 3, (9, 12)), (2, 3, (3, 6)), (31, 8, (24, 32))]
)
def test_heads_that_do_not_divide_are_refused_with_key_value_rule_and_repair(query_heads, kv_heads, repair):
    message = refusal(lambda: other(SMOLLM2, query_heads=query_heads, kv_heads=kv_heads))
    assert f"query_heads={query_heads}" in message and f"kv_heads={kv_heads}" in message
    assert "same number of query heads" in message
    assert f"Use query_heads={repair[0]} or {repair[1]}." in message
    for heads in repair:
        assert other(SMOLLM2, query_heads=heads, kv_heads=kv_heads).query_heads == heads


@pytest.mark.parametrize(("name", "most"), [("layers", 30), ("hidden", 576), ("intermediate", 1536)])
def test_target_that_grows_is_refused_with_key_value_rule_and_repair(name, most):
    message = refusal(lambda: shrinking_axes(SMOLLM2, other(SMOLLM2, **{name: most + 1})))
    assert f"target.{name}={most + 1}" in message
    assert f"the source's {most}" in message
    assert "only removes units" in message
    assert f"Use {name}={most} or less." in message
    assert shrinking_axes(SMOLLM2, other(SMOLLM2, **{name: most})) == ()


def test_kv_heads_that_grow_are_refused():
    message = refusal(lambda: shrinking_axes(SMOLLM2, other(SMOLLM2, query_heads=12, kv_heads=4)))
    assert "target.kv_heads=4" in message and "Use kv_heads=3 or less." in message


def test_query_heads_that_grow_within_a_group_are_refused_with_a_repair_that_works():
    """Eight heads are fewer than nine, but four per KV head are more than three."""
    message = refusal(lambda: shrinking_axes(SMOLLM2, other(SMOLLM2, query_heads=8, kv_heads=2)))
    assert "target.query_heads=8" in message and "target.kv_heads=2" in message
    assert "4 per KV head" in message and "the source has 3" in message
    assert "Use query_heads=6 or less." in message
    assert shrinking_axes(SMOLLM2, other(SMOLLM2, query_heads=6, kv_heads=2)) == (Axis.KV_HEADS,)


def test_shrinking_axes_are_those_whose_rows_get_smaller():
    assert shrinking_axes(SMOLLM2, SMOLLM2) == ()
    assert shrinking_axes(SMOLLM2, other(SMOLLM2, layers=24)) == (Axis.LAYERS,)
    assert shrinking_axes(SMOLLM2, other(SMOLLM2, hidden=480)) == (Axis.HIDDEN,)
    assert shrinking_axes(SMOLLM2, other(SMOLLM2, intermediate=1280)) == (Axis.INTERMEDIATE,)
    assert shrinking_axes(SMOLLM2, other(SMOLLM2, query_heads=6)) == (Axis.QUERY_HEADS,)
    assert set(shrinking_axes(SMOLLM2, other(SMOLLM2, query_heads=2, kv_heads=2))) == {
        Axis.KV_HEADS,
        Axis.QUERY_HEADS,
    }


def test_heads_of_a_model_without_groups_shrink_on_the_kv_axis_alone():
    assert set(shrinking_axes(LLAMA2_7B, SHEARED_1_3B)) == set(Axis) - {Axis.QUERY_HEADS}


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis.LAYERS, (30,)),
        (Axis.HIDDEN, (576,)),
        (Axis.KV_HEADS, (30, 3)),
        (Axis.QUERY_HEADS, (30, 3, 3)),
        (Axis.INTERMEDIATE, (30, 1536)),
    ],
)
def test_gate_shape_has_the_units_of_a_row_last(axis, expected):
    assert SMOLLM2.gate_shape(axis) == expected
    assert SMOLLM2.units(axis) == expected[-1]


def test_gate_shape_of_a_model_without_groups_has_one_query_head_per_group():
    assert LLAMA2_7B.gate_shape(Axis.QUERY_HEADS) == (32, 32, 1)
    assert LLAMA2_7B.gate_shape(Axis.KV_HEADS) == (32, 32)


def test_sizes_by_name_build_the_same_shape_again():
    assert ModelShape(**SMOLLM2.to_dict()) == SMOLLM2
    assert set(SMOLLM2.to_dict()) == {axis.value for axis in Axis}


def test_shape_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMOLLM2.layers = 1
