"""Every criterion orders the units of every family: scores of each axis's shape, and not all the same."""

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.ranking.criteria import criteria_by_axis
from shear_lit.ranking.measuring import measure
from shear_lit.theory.shape import Axis
from tests.ranking.passages import device, passages
from tests.toy_families import ONE_OF_EACH, model_of
from tests.toy_models import toy_ids

CHOSEN = (
    "fisher",
    "activation",
    "weight",
    {
        "layers": "depth",
        "intermediate": "peak_to_peak",
        "query_heads": "reconstruction",
        "kv_heads": "reconstruction",
    },
    {"layers": "loss_window", "intermediate": "reconstruction"},
)


@pytest.mark.parametrize("said", CHOSEN, ids=str)
@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_criterion_tells_the_units_of_each_axis_apart(form, said):
    model = model_of(form)
    family, gates = family_of(model.config), attach(model, family_of(model.config))
    text = passages([toy_ids(), toy_ids(seed=1)])
    found = measure(model, family, text, criteria_by_axis(said), set_gates=gates.set, device=device())
    gates.detach()
    assert set(found.importance) == set(Axis)
    for axis, scores in found.importance.items():
        assert scores.shape == family.shape.gate_shape(axis), axis
        assert torch.isfinite(scores).all() and (scores >= 0).all(), axis
        if scores.shape[-1] > 1:
            assert (scores.amax(-1) > scores.amin(-1)).all(), axis
