"""What a user may say about pruning, and what each mistake is answered with."""

import pytest

from shear_lit.models.registry import family_of
from shear_lit.pruning.gate_settings import ExactGates
from shear_lit.pruning.settings import Pruning
from shear_lit.theory.shape import Axis, ModelShape, ShapeError, TargetShape
from tests.toy_models import TARGET, toy_config

SHAPE = TARGET[True]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(target=None), ["no model.pruning.target is given", "target_parameters"]),
        (dict(target_parameters=1e6), ["model.pruning.target", "are given", "exactly one"]),
        (dict(start_sparsity=1.0), ["start_sparsity=1.0", "[0, 1)"]),
        (dict(start_sparsity={"hidden": -0.1}), ["start_sparsity=-0.1", "[0, 1)"]),
        (dict(start_sparsity={"width": 0.1}), ["'width'", "no axis", "intermediate"]),
        (dict(exact=ExactGates(noise=0.5)), ["model.pruning.exact has no effect", "constraint=lagrangian"]),
        (
            dict(constraint="exact", second_multiplier_start=3.0),
            ["second_multiplier_start", "no multipliers"],
        ),
        (dict(constraint="exact", initial_log_alpha=1.0), ["initial_log_alpha", "order of importance"]),
        (dict(initial_gap=2.0, initial_log_alpha=1.0), ["initial_log_alpha", "order of importance"]),
        (dict(initial_scores="g.safetensors"), ["initial_scores", "initial_gap is more than 0"]),
    ],
    ids=str,
)
def test_mistake_names_key_rule_and_repair(given, words):
    with pytest.raises(ShapeError) as found:
        Pruning(**{"target": SHAPE, **given})
    for word in words:
        assert word in str(found.value), found.value


@pytest.mark.parametrize(
    "given",
    [
        dict(start_sharpness=0.0),
        dict(start_sharpness=9.0, final_sharpness=3.0),
        dict(settling_fraction=0.0),
        dict(settling_fraction=1.5),
        dict(noise=0.0),
        dict(noise=2.0),
    ],
    ids=str,
)
def test_settings_of_exact_gates_outside_their_range_are_refused(given):
    with pytest.raises(ShapeError, match=r"model\.pruning\.exact.*Use for example"):
        ExactGates(**given)


def test_start_sparsity_is_one_number_or_one_per_axis():
    assert Pruning(target=SHAPE, start_sparsity=0.1).start_sparsity_of(Axis.HIDDEN) == 0.1
    mapped = Pruning(target=SHAPE, start_sparsity={"hidden": 0.1})
    assert [mapped.start_sparsity_of(axis) for axis in (Axis.HIDDEN, Axis.LAYERS)] == [0.1, 0.0]


def test_start_sparsity_of_an_axis_that_keeps_its_size_is_refused():
    source = family_of(toy_config())
    target = ModelShape(**{**source.shape.to_dict(), "layers": 2})
    with pytest.raises(ShapeError, match=r"start_sparsity\.hidden has no effect"):
        Pruning(target=target, start_sparsity={"hidden": 0.1}).gated_axes(source)


def test_resolved_target_is_a_shape_and_nothing_else():
    resolved = Pruning(target_preset="sheared-llama-370m").resolved(toy_config())
    assert resolved.shape.hidden == 1024 and resolved.target_preset is None
    assert resolved.resolved(toy_config()) is resolved


def test_target_of_some_axes_is_resolved_to_the_whole_shape_that_is_recorded():
    config = toy_config()
    source = family_of(config).shape
    resolved = Pruning(target=TargetShape(layers=2)).resolved(config)
    assert resolved.target == resolved.shape == ModelShape(**{**source.to_dict(), "layers": 2})
    assert resolved.gated_axes(family_of(config)) == (Axis.LAYERS,)
