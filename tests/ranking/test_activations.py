"""What flows through a model, against sums that are made here by hand."""

import itertools
import math

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.ranking import activations
from shear_lit.ranking.activations import (
    by_activations,
    by_block_influence,
    by_depth,
    by_peak_to_peak,
    nested_windows,
    watch_activations,
)
from shear_lit.ranking.magnitude import weight_ranges
from shear_lit.theory.shape import Axis
from tests.ranking.passages import passages, whole
from tests.toy_models import SOME_VARIANTS, toy_config, toy_ids, toy_model

pytestmark = pytest.mark.usefixtures("float64_norms")


@pytest.fixture(params=SOME_VARIANTS, ids=str)
def model(request):
    return toy_model(toy_config(request.param))


@torch.no_grad()
def recorded(model, ids):
    """Inputs and outputs of all modules by name, by hooks of the test's own."""
    kept, handles = {}, []
    for name, module in model.named_modules():

        def hook(module, inputs, output, name=name):
            kept[name] = (inputs[0] if inputs else None, output[0] if isinstance(output, tuple) else output)

        handles.append(module.register_forward_hook(hook))
    model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return kept


def importance(sums):
    return {**by_activations(whole(sums)), **by_block_influence(whole(sums))}


def check_importance(model):
    family, ids = family_of(model.config), toy_ids()
    found = importance(watch_activations(model, family, passages([ids])))
    flows = [recorded(model, row[None]) for row in ids]
    shape, head = family.shape, family.head_size
    for layer in range(shape.layers):
        inside = [flow[f"model.layers.{layer}.mlp.down_proj"][0][0] for flow in flows]
        expected = torch.stack([rows.square().mean(0) for rows in inside]).mean(0).sqrt()
        torch.testing.assert_close(found[Axis.INTERMEDIATE][layer].double(), expected, rtol=1e-5, atol=1e-7)
        heads = [
            flow[f"model.layers.{layer}.self_attn.o_proj"][0].reshape(-1, shape.query_heads, head)
            for flow in flows
        ]
        norms = torch.stack([rows.square().sum(-1).mean(0) for rows in heads]).mean(0).sqrt()
        norms = norms.view(shape.kv_heads, -1)
        torch.testing.assert_close(found[Axis.QUERY_HEADS][layer].double(), norms, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found[Axis.KV_HEADS][layer].double(), norms.sum(-1), rtol=1e-5, atol=1e-7)
        turned = []
        for before, after in (flow[f"model.layers.{layer}"] for flow in flows):
            turned.append((before * after).sum(-1) / before.norm(dim=-1) / after.norm(dim=-1))
        expected = float((1 - torch.stack(turned)).mean())
        assert float(found[Axis.LAYERS][layer]) == pytest.approx(expected, rel=1e-4)
    norms = [output for flow in flows for name, (_, output) in flow.items() if name.endswith("norm")]
    assert len(norms) == len(ids) * (2 * shape.layers + 1)
    hidden = sum(norm.abs().mean((0, 1)) for norm in norms) / len(ids)
    torch.testing.assert_close(found[Axis.HIDDEN].double(), hidden, rtol=1e-5, atol=1e-7)


def test_importance_is_the_size_of_what_flows(model):
    check_importance(model)


def test_importance_of_other_units_differs(model, monkeypatch):
    hook = activations.ActivationSums._output_hook
    monkeypatch.setattr(
        activations.ActivationSums, "_output_hook", lambda self, axis, block: hook(self, axis, 0)
    )
    with pytest.raises(AssertionError):
        check_importance(model)


def test_tokens_that_do_not_count_are_not_looked_at(model):
    """Padding after a sequence, and a sequence of nothing else: the importance is that of the text alone."""
    family, ids = family_of(model.config), toy_ids()
    padded = torch.cat(
        [torch.cat([ids, ids[:, :3]], dim=1), torch.ones(1, ids.shape[1] + 3, dtype=ids.dtype)]
    )
    mask = torch.zeros_like(padded, dtype=torch.bool)
    mask[: len(ids), : ids.shape[1]] = True
    alone = watch_activations(model, family, passages([ids]))
    found = watch_activations(model, family, passages([padded], masks=mask))
    blind = watch_activations(model, family, passages([padded]))
    for axis, expected in importance(alone).items():
        torch.testing.assert_close(importance(found)[axis], expected, rtol=1e-4, atol=1e-7)
    for name, expected in whole(alone).items():
        torch.testing.assert_close(whole(found)[name], expected, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(importance(blind)[Axis.HIDDEN], importance(alone)[Axis.HIDDEN], rtol=1e-4)


def test_watching_ends_with_the_block(model):
    watch_activations(model, family_of(model.config), passages([toy_ids()]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layer_that_changes_nothing_is_the_least_important_and_the_first_to_go(model):
    block = model.model.layers[2]
    for writer in (block.self_attn.o_proj, block.mlp.down_proj):
        for parameter in writer.parameters():
            parameter.data.zero_()
    sums = whole(
        watch_activations(model, family_of(model.config), passages([toy_ids(seed=seed) for seed in range(3)]))
    )
    for found in (by_block_influence(sums), by_depth(sums)):
        assert found.keys() == {Axis.LAYERS}
        assert int(found[Axis.LAYERS].argmin()) == 2


def test_peak_to_peak_is_the_range_of_weights_times_the_size_of_what_flows(model):
    family, ids = family_of(model.config), toy_ids()
    sums = whole(watch_activations(model, family, passages([ids])))
    found = by_peak_to_peak(weight_ranges(model.named_parameters(), family), sums)[Axis.INTERMEDIATE]
    sizes = by_activations(sums)[Axis.INTERMEDIATE]
    for layer, block in enumerate(model.model.layers):
        mlp, expected = block.mlp, torch.zeros(family.shape.intermediate, dtype=torch.float64)
        for rows in (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T):
            ranges = torch.tensor([unit.max() - unit.min() for unit in rows.detach()], dtype=torch.float64)
            expected += ranges / ranges.mean()
        torch.testing.assert_close(found[layer].double(), expected * sizes[layer].double())


@pytest.mark.parametrize("most", [128, 5], ids=["every token", "five of them"])
def test_depths_are_compared_by_the_angles_of_their_streams_at_tokens_that_count(model, most, monkeypatch):
    monkeypatch.setattr(activations, "TURNED_AT", most)
    family, ids = family_of(model.config), toy_ids()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, -3:] = False
    found = whole(watch_activations(model, family, passages([ids], masks=mask)))["turned"]
    count = ids.shape[1] - 3
    places = range(count) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]
    expected = torch.zeros_like(found)
    for flow in (recorded(model, row[None]) for row in ids):
        blocks = [flow[f"model.layers.{layer}"] for layer in range(family.shape.layers)]
        stream = [blocks[0][0][0], *(after[0] for _, after in blocks)]
        for a, b in itertools.product(range(len(stream)), repeat=2):
            cosines = [torch.cosine_similarity(stream[a][t], stream[b][t], dim=0) for t in places]
            angles = [math.acos(min(1.0, float(cosine))) / math.pi for cosine in cosines]
            expected[a, b] += sum(angles) / len(angles)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-4 * len(ids))


def test_windows_of_a_table_that_is_read_by_hand():
    distance = torch.full((5, 5), 9.0)
    distance[0, 1], distance[1, 2], distance[2, 3], distance[3, 4] = 5, 1, 2, 3
    distance[0, 2], distance[1, 3] = 4, 3  # layers 0-1, layers 1-2
    distance[0, 3], distance[1, 4] = 8, 7  # layers 0-2, layers 1-3
    assert nested_windows(distance).tolist() == [3, 0, 1, 2]


def test_windows_are_those_that_turn_least_in_sum_of_all_that_lie_in_one_another():
    """All rows of windows are tried; the layer that turns least lies far from the best windows of more."""
    distance = torch.rand(9, 9, generator=torch.Generator().manual_seed(1)) + 1
    distance[0, 1], distance[5, 7], distance[4, 7] = 0.9, 0.2, 0.3

    def cost(first, length):
        turned = distance.diagonal(length)
        return float(turned[first] / turned.min())

    def rows(first, length):
        if length == 1:
            yield (first,)
        else:
            for inner in (first, first + 1):
                yield from ((*row, first) for row in rows(inner, length - 1))

    best = min(rows(0, 8), key=lambda row: sum(cost(first, n + 1) for n, first in enumerate(row)))
    order = nested_windows(distance).argsort().tolist()
    assert [min(order[:n]) for n in range(1, 9)] == list(best)
    assert sorted(order[:3]) == [4, 5, 6]


def test_any_number_of_the_least_important_layers_are_neighbours():
    distance = torch.rand(9, 9, generator=torch.Generator().manual_seed(0))
    order = nested_windows(distance).argsort().tolist()
    for removed in range(1, 9):
        window = sorted(order[:removed])
        assert window == list(range(window[0], window[0] + removed))
