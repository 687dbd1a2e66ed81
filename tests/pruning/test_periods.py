"""Blocks that keep their family's period: the best such choice, by trying them all, and in the model that is cut."""

import itertools

import pytest
import torch

from shear_lit.models.config_file import config_entries
from shear_lit.models.registry import family_of, keeps_period
from shear_lit.pruning.constraints import LAGRANGIAN, Exact
from shear_lit.pruning.periods import blocks_in_period, check_period
from shear_lit.pruning.starts import ranked_gates
from shear_lit.theory.shape import Axis, ModelShape, ShapeError
from tests.toy_families import FORMS, carved_of, model_of

PERIODS = {"gemma2": 2, "gemma3_text": 6, "smollm3": 4}
LAYERS = 14


def config_of(family):
    """As published: the config class itself makes the kinds alternate."""
    form = next(form for form in FORMS if form.family == family and form.grouped)
    return form.config(layer_types=None, no_rope_layers=None, num_hidden_layers=LAYERS)


def target_of(config, layers):
    return ModelShape(**{**family_of(config).shape.to_dict(), "layers": layers})


def choices(config, count):
    """Every choice of blocks after which kinds alternate, by the definition."""
    period = family_of(config).period
    kinds = getattr(config, period.listed)
    return [
        blocks
        for blocks in itertools.combinations(range(LAYERS), count)
        if all((kinds[b] == period.kind) == ((i + 1) % period.blocks == 0) for i, b in enumerate(blocks))
    ]


@pytest.mark.parametrize("family", PERIODS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 11, 13])
def test_choice_is_the_best_of_all_that_keep_the_period(family, count):
    config = config_of(family)
    assert family_of(config).period.blocks == PERIODS[family] and keeps_period(config)
    possible, target = choices(config, count), target_of(config, count)
    if not possible:
        with pytest.raises(ShapeError, match=f"no {count} of the source's {LAYERS} blocks"):
            check_period(config, target, key="keep_layer_period")
        return
    check_period(config, target, key="keep_layer_period")
    for seed in range(5):
        scores = torch.randn(LAYERS, generator=torch.Generator().manual_seed(seed))
        best = max(possible, key=lambda blocks: sum(scores[list(blocks)].tolist()))
        assert blocks_in_period(scores, config, target) == best


def test_family_whose_blocks_are_alike_has_no_period_to_keep():
    config = next(form for form in FORMS if form.family == "llama").config()
    with pytest.raises(ShapeError, match="has no effect: blocks of a llama model are of one kind"):
        check_period(config, target_of(config, 2), key="keep_layer_period")
    assert blocks_in_period(torch.zeros(4), config, target_of(config, 2)) is None


@pytest.mark.parametrize("family", PERIODS)
def test_cut_at_the_choice_keeps_the_period_and_another_need_not(family):
    config, count = config_of(family), 9
    target = target_of(config, count)
    scores = torch.arange(LAYERS, dtype=torch.float32)  # the last ones are the best
    blocks = blocks_in_period(scores, config, target)
    model = model_of(
        next(f for f in FORMS if f.family == family and f.grouped),
        num_hidden_layers=LAYERS,
        layer_types=None,
        no_rope_layers=None,
    )
    importance = {Axis.LAYERS: scores}
    for given, kept in ((blocks, True), (None, False)):
        values = ranked_gates(importance, family_of(config).shape, target, blocks=given)
        carved = carved_of(model, {axis: rows.double() for axis, rows in values.items()})
        assert keeps_period(carved.config) is kept
        stated = config_entries(carved.config, dtype="float32").get("sliding_window_pattern", "absent")
        assert stated == ("absent" if kept or family != "gemma3_text" else None)


@pytest.mark.parametrize("constraint", [LAGRANGIAN, Exact(kept={Axis.LAYERS: 3.0}, sharpness=2.0, noise=1.0)])
def test_learned_gates_of_chosen_blocks_stay_as_they_are(constraint):
    config = config_of("gemma2")
    target = target_of(config, 4)
    log_alpha = {Axis.LAYERS: torch.linspace(-4, 4, LAYERS)}
    blocks = (0, 1, 2, 13)
    usual = constraint.standing(log_alpha, target)[Axis.LAYERS]
    values = constraint.standing(log_alpha, target, blocks=blocks)[Axis.LAYERS]
    assert values.nonzero()[:, 0].tolist() == list(blocks)
    assert torch.equal(values[13], usual[13])
    assert 0 < values[0] < values[1] < values[2] < values[13]
