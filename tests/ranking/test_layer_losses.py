"""Layers by the loss without them."""

from itertools import pairwise

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.ranking.layer_losses import LayerLosses, by_greedy_removal, by_window_removal
from shear_lit.theory.shape import Axis
from tests.ranking.passages import passages
from tests.toy_models import toy_config, toy_ids, toy_model


class Table(LayerLosses):
    """Losses that are given: by what each layer costs, and what two neighbours that are both gone cost more."""

    def __init__(self, costs, together=0.0):
        self.layers, self.costs, self.together = len(costs), costs, together
        self.asked = []

    def without(self, blocks):
        gone = sorted(blocks)
        self.asked.append(gone)
        neighbours = sum(first + 1 == second for first, second in pairwise(gone))
        return sum(self.costs[block] for block in gone) + self.together * neighbours


def order(importance):
    return importance[Axis.LAYERS].argsort().tolist()


def test_greedy_removal_takes_the_layer_that_the_loss_misses_least_each_time():
    assert order(by_greedy_removal(Table([5, 1, 4, 2, 3, 6]))) == [1, 3, 4, 2, 0, 5]
    # Neighbours that are both gone cost so much that others go before them.
    assert order(by_greedy_removal(Table([5.0, 1, 1.5, 2, 3, 6], together=10.0)))[:3] == [1, 3, 5]


def test_window_grows_to_the_side_that_the_loss_misses_less():
    assert order(by_window_removal(Table([6, 4, 1, 3, 5, 2]))) == [2, 3, 1, 4, 5, 0]


def test_losses_are_those_of_the_model_without_the_blocks():
    model = toy_model(toy_config())
    ids = [toy_ids(seed=seed) for seed in range(2)]
    losses = LayerLosses(model, family_of(model.config), passages(ids))
    whole = losses.without([])
    rows = torch.cat(ids)
    expected = torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in rows]).mean()
    assert whole == pytest.approx(expected.item(), rel=1e-5)
    block = model.model.layers[1]
    without = losses.without([1])
    for writer in (block.self_attn.o_proj, block.mlp.down_proj):
        for parameter in writer.parameters():
            parameter.data.zero_()
    assert losses.without([]) == pytest.approx(without, rel=1e-6) != pytest.approx(whole, rel=1e-4)
    assert not any(block._forward_hooks for block in model.model.layers)


def test_processes_add_up_their_losses():
    model = toy_model(toy_config())
    text = passages([toy_ids(seed=seed) for seed in range(2)])
    family, both = family_of(model.config), []
    parts = [
        LayerLosses(model, family, text[rank::2], reduce=lambda sums: both.append(sums) or sums)
        for rank in range(2)
    ]
    for part in parts:
        part.without([2])
    total, count = sum(both).tolist()
    assert total / count == pytest.approx(LayerLosses(model, family, text).without([2]), rel=1e-9)
