"""Every criterion orders the units of every family: scores of each axis's shape, and not all the same."""

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.pruning.activations import watch_activations
from shear_lit.pruning.attach import attach
from shear_lit.pruning.importance import gate_gradients
from shear_lit.pruning.magnitude import weight_magnitude
from shear_lit.theory.shape import Axis
from tests.toy_families import ONE_OF_EACH, model_of
from tests.toy_models import toy_ids


def by_gradients(model, family, batches):
    attached = attach(model, family)
    found, count = gate_gradients(
        attached,
        lambda ids: model(input_ids=ids, labels=ids, use_cache=False).loss,
        batches,
        source=family.shape,
        axes=tuple(Axis),
        device=torch.device("cpu"),
    )
    attached.detach()
    return {axis: sums.squared / count for axis, sums in found.items()}


def by_activations(model, family, batches):
    return watch_activations(model, family, [{"input_ids": ids} for ids in batches]).importance()


CRITERIA = {
    "fisher": by_gradients,
    "activation": by_activations,
    "weight": lambda model, family, _: weight_magnitude(dict(model.named_parameters()), family),
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_criterion_tells_the_units_of_each_axis_apart(form, criterion):
    model = model_of(form)
    family = family_of(model.config)
    importance = CRITERIA[criterion](model, family, [toy_ids(), toy_ids()])
    assert set(importance) == set(Axis)
    for axis, scores in importance.items():
        assert scores.shape == family.shape.gate_shape(axis), axis
        assert torch.isfinite(scores).all() and (scores >= 0).all(), axis
        if scores.shape[-1] > 1:
            assert (scores.amax(-1) > scores.amin(-1)).all(), axis
