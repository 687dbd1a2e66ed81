"""Targets by size, cost and name: proposals are what they say, and what cannot be reached is said."""

import logging
import math

import pytest
from transformers import LlamaConfig

from shear_lit.models import proposals
from shear_lit.models.proposals import Measure, SizeModel, imbalance
from shear_lit.models.registry import family_of, parameter_count
from shear_lit.models.targets import PRESETS, TargetRequest, kernel_warnings
from shear_lit.theory.shape import Axis, ModelShape, ShapeError, TargetShape
from tests.toy_models import VARIANTS, toy_config

LLAMA2_7B = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    intermediate_size=11008,
)
SMOLLM2 = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    intermediate_size=1536,
    head_dim=64,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_size_in_parameters_is_the_count_of_the_carved_model(variant):
    config = toy_config(variant)
    shape = ModelShape(layers=3, hidden=36, query_heads=4, kv_heads=2, intermediate=24)
    if not variant.grouped:
        shape = ModelShape(layers=3, hidden=36, query_heads=4, kv_heads=4, intermediate=24)
    assert SizeModel(config).of(shape, Measure.PARAMETERS) == parameter_count(config, shape)


@pytest.mark.parametrize("tied", [True, False])
def test_cost_is_that_of_the_matrices_that_a_token_meets(tied):
    config = toy_config(tie_word_embeddings=tied)
    hidden, heads, groups, head, feed_forward = 48, 12, 4, 6, 40
    block = 2 * hidden * heads * head + 2 * hidden * groups * head + 3 * hidden * feed_forward
    expected = 4 * block + config.vocab_size * hidden
    assert SizeModel(config).of(family_of(config).shape, Measure.FLOPS) == expected


@pytest.mark.parametrize("asked", [dict(parameters=1.345e9), dict(flops_fraction=0.5)], ids=str)
def test_proposals_are_close_balanced_first_and_in_round_sizes(asked):
    found = TargetRequest(**asked).proposals(LLAMA2_7B)
    whole = SizeModel(LLAMA2_7B).of(family_of(LLAMA2_7B).shape, Measure.FLOPS)
    size = asked.get("parameters") or 0.5 * whole
    assert len(found) == 5 and [p.cost for p in found] == sorted(p.cost for p in found)
    for proposal in found:
        assert abs(proposal.size / size - 1) <= 0.01
        assert proposal.shape.hidden % 128 == proposal.shape.intermediate % 128 == 0
        family_of(LLAMA2_7B).check_target(proposal.shape)
    if "parameters" in asked:
        assert [parameter_count(LLAMA2_7B, p.shape) for p in found] == [p.size for p in found]
        assert PRESETS["sheared-llama-1.3b"] in [proposal.shape for proposal in found]


def test_balance_is_the_same_fraction_of_every_width_and_its_square_root_of_the_depth():
    source = ModelShape(layers=64, hidden=4096, query_heads=32, kv_heads=32, intermediate=8192)
    half = dict(hidden=2048, query_heads=16, kv_heads=16, intermediate=4096)
    quarter = dict(hidden=1024, query_heads=8, kv_heads=8, intermediate=2048)
    assert imbalance(source, ModelShape(layers=32, **quarter)) == pytest.approx(0)
    assert imbalance(source, ModelShape(layers=45, **half)) == pytest.approx(0, abs=0.01)
    assert imbalance(source, ModelShape(layers=16, **half)) > 0.5
    assert (
        imbalance(source, ModelShape(layers=45, **{**half, "intermediate": 4104})) > 0.05
    )  # no multiple of 64


def test_proposals_shrink_only_the_axes_that_may():
    found = TargetRequest(parameters=8e7).proposals(SMOLLM2, (Axis.LAYERS, Axis.INTERMEDIATE))
    assert {(p.shape.hidden, p.shape.query_heads, p.shape.kv_heads) for p in found} == {(576, 9, 3)}


def test_resolved_target_is_logged_with_its_runners_up(caplog):
    with caplog.at_level(logging.INFO):
        shape = TargetRequest(parameters=8e7).resolve(SMOLLM2)
    assert parameter_count(SMOLLM2, shape) == pytest.approx(8e7, rel=0.01)
    assert caplog.text.count("imbalance") == 5 and "runners-up" in caplog.text


@pytest.mark.parametrize(
    ("asked", "axes"),
    [(1e5, tuple(Axis)), (1e12, tuple(Axis)), (3e7, (Axis.LAYERS,))],
    ids=["too small", "larger than the source", "not with these axes"],
)
def test_target_that_cannot_be_reached_says_what_can(asked, axes):
    source = parameter_count(SMOLLM2)
    with pytest.raises(ShapeError) as found:
        TargetRequest(parameters=asked, key="model.pruning.target").proposals(SMOLLM2, axes)
    said = str(found.value)
    assert f"model.pruning.target_parameters={asked:g}" in said and f"{source:,}" in said
    assert said.count("layers=") >= 1 and "Ask for one of those" in said


def test_size_without_its_outside_is_found_wrong(monkeypatch):
    """The twin: the same proposals of a size that forgets the embedding are not of the asked size."""
    build = SizeModel.__init__

    def broken(self, config):
        build(self, config)
        self._outside = {}

    monkeypatch.setattr(proposals.SizeModel, "__init__", broken)
    found = TargetRequest(parameters=8e7).proposals(SMOLLM2)
    assert abs(parameter_count(SMOLLM2, found[0].shape) / 8e7 - 1) > 0.01


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ["no target is given", "exactly one of", "Add one"]),
        (dict(parameters=1e9, flops_fraction=0.5), ["are given", "exactly one of", "Keep one"]),
        (dict(flops_fraction=1.5), ["target_flops_fraction=1.5", "between 0 and 1"]),
        (dict(parameters=0.0), ["target_parameters=0.0", "positive number"]),
        (dict(parameters=math.nan), ["target_parameters=nan", "positive number"]),
        (dict(preset="llama"), ["target_preset='llama'", "sheared-llama-1.3b"]),
    ],
    ids=str,
)
def test_request_is_exactly_one_way(given, words):
    with pytest.raises(ShapeError) as found:
        TargetRequest(**given)
    assert all(word in str(found.value) for word in words)


def test_sizes_that_kernels_do_not_like_are_named():
    shape = ModelShape(layers=1, hidden=483, query_heads=1, kv_heads=1, intermediate=1280)
    (warning,) = kernel_warnings(shape)
    assert "hidden=483" in warning and "hidden=480 or 488 would not" in warning


def test_target_that_names_some_axes_is_resolved_to_a_whole_shape():
    config = toy_config(VARIANTS[0])
    source = family_of(config).shape
    resolved = TargetRequest(shape=TargetShape(layers=2, kv_heads=2)).resolve(config)
    assert resolved == ModelShape(**{**source.to_dict(), "layers": 2, "kv_heads": 2, "query_heads": 6})
    with pytest.raises(ShapeError, match=r"give target\.kv_heads, too"):
        TargetRequest(shape=TargetShape(query_heads=5)).resolve(config)


def test_two_targets_are_named_in_plain_words():
    with pytest.raises(ShapeError) as found:
        TargetRequest(shape=TargetShape(layers=2), preset="sheared-llama-370m", key="model.pruning.target")
    assert str(found.value).startswith(
        "model.pruning.target and model.pruning.target_preset are given: exactly one of model.pruning.target, "
    )
