"""The repair of a cut, against least squares solved here from activations that the test records itself."""

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.repair import repair
from shear_lit.ranking.importance import Passage
from tests.ranking.passages import device
from tests.toy_families import FORMS, carved_of, model_of
from tests.toy_models import VOCABULARY

LENGTH, ROWS = 12, 5


def text(batches=30, *, rows=ROWS, length=LENGTH, seed=0):
    """Passages of tokens, of which some follow from the one before."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for batch in range(batches):
        ids = torch.randint(2, VOCABULARY, (rows, length), generator=generator)
        copied = torch.rand(rows, length, generator=generator) < 0.5
        for place in range(1, length):
            ids[:, place] = torch.where(
                copied[:, place], (ids[:, place - 1] * 7 + 3) % VOCABULARY, ids[:, place]
            )
        found.append(Passage(inputs={"input_ids": ids, "labels": ids}, number=batch * rows))
    return found


def cut(form, *, seed=0):
    model = model_of(form, seed=seed)
    values = form.gates(soft=False)
    return model, carved_of(model, values), kept_units(values, family_of(model.config).shape)


def repaired(form, passages, **options):
    model, small, kept = cut(form)
    before = {name: tensor.detach().clone() for name, tensor in small.named_parameters()}
    families = family_of(model.config), family_of(small.config)
    found = repair(model, small, *families, kept, passages, device=device(), **options)
    return model, small, kept, before, found


@torch.no_grad()
def stream_error(model, small, kept, passages):
    """The squared error of the carved stream before the last norm, as a fraction of the source's at its entries."""
    wrong = total = 0.0
    for passage in passages:
        ids, streams = passage.inputs["input_ids"], []
        for network in (model, small):
            last = next(n.module for n in family_of(network.config).norms if "*" not in n.module)
            seen = []
            handle = network.get_submodule(last).register_forward_pre_hook(
                lambda _, given, seen=seen: seen.append(given[0])
            )
            network(input_ids=ids)
            handle.remove()
            streams.append(seen[0])
        wanted = streams[0][..., kept.hidden]
        wrong += float((streams[1] - wanted).square().sum())
        total += float(wanted.square().sum())
    return wrong / total


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_repair_brings_the_stream_of_every_family_closer_to_the_source(form):
    passages, fresh = text(), text(4, seed=1)
    model, small, kept = cut(form)
    before = stream_error(model, small, kept, fresh)
    model, small, kept, weights, found = repaired(form, passages)
    after = stream_error(model, small, kept, fresh)
    assert after < 0.9 * before
    assert sum(item.refitted for item in found) >= 0.9 * len(found)
    changed = {name for name, tensor in small.named_parameters() if not torch.equal(tensor, weights[name])}
    refitted = {item.tensor for item in found if item.refitted}
    assert refitted <= changed
    assert all(name.rpartition(".")[0] + ".weight" in refitted for name in changed)
    tied = form.tied
    assert (family_of(small.config).embedding + ".weight" in changed) is False
    assert any("lm_head" in name for name in refitted) is not tied
