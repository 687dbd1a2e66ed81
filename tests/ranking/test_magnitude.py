"""Sizes of weights by unit."""

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.ranking import magnitude
from shear_lit.ranking.magnitude import weight_magnitude
from shear_lit.theory.shape import Axis
from tests.toy_models import SOME_VARIANTS, toy_config, toy_model


def scaled_down(model, axis, unit):
    """The tensors with everything that goes with one unit divided by 1,000: it must be the least important then."""
    family = family_of(model.config)
    tensors = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    queries, head = family.shape.queries_per_group, family.head_size
    for name, tensor in tensors.items():
        _, block = family.pattern(name)
        if axis is Axis.LAYERS:
            if block == unit[0]:
                tensor /= 1000
            continue
        for cut in family.cuts_of(name):
            if axis is Axis.KV_HEADS and cut.axis in (Axis.KV_HEADS, Axis.QUERY_HEADS):
                width = head * (queries if cut.axis is Axis.QUERY_HEADS else 1)
            elif cut.axis is axis:
                width = cut.entries
            else:
                continue
            if axis is not Axis.HIDDEN and block != unit[0]:
                continue
            index = unit[-1] if axis is not Axis.QUERY_HEADS else unit[1] * queries + unit[2]
            tensor.narrow(cut.dim, index * width, width).div_(1000)
    return tensors


def check_all_axes(model):
    family = family_of(model.config)
    for axis in Axis:
        shape = family.shape.gate_shape(axis)
        unit = tuple(size - 1 for size in shape)
        if shape[-1] == 1:
            continue
        found = weight_magnitude(scaled_down(model, axis, unit).items(), family)[axis]
        assert tuple(found.shape) == shape
        assert found[unit] < 0.01 * found.median(), axis


@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=str)
def test_unit_of_small_weights_is_the_least_important(variant):
    check_all_axes(toy_model(toy_config(variant)))


def test_unit_of_another_size_is_not(monkeypatch):
    of_units = magnitude._of_units
    monkeypatch.setattr(magnitude, "_of_units", lambda *given: of_units(*given).roll(1))
    with pytest.raises(AssertionError):
        check_all_axes(toy_model(toy_config()))


def test_hidden_magnitude_is_the_norm_over_everything_that_goes_with_it():
    model = toy_model(toy_config())
    family = family_of(model.config)
    tensors = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for name, tensor in tensors.items():
        for cut in family.cuts_of(name):
            if cut.axis is Axis.HIDDEN:
                total += tensor.detach().select(cut.dim, 5).square().sum()
    found = weight_magnitude(tensors.items(), family)[Axis.HIDDEN]
    assert float(found[5]) == pytest.approx(float(total.sqrt()), rel=1e-6)
