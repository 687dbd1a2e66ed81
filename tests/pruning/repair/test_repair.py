"""The repair of a cut, against least squares solved here from activations that the test records itself."""

import os
import threading

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.repair import repair
from shear_lit.pruning.repair.head import TOKENS_A_CHANNEL, refit_head
from shear_lit.pruning.repair.moments import PANEL, Moments, downhill, ridge
from shear_lit.pruning.repair.passages import HELD_OUT, thinned
from shear_lit.ranking.importance import Passage
from tests.ranking.passages import device
from tests.toy_families import FORMS, ONE_OF_EACH, carved_of, model_of
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


def repaired(form, passages, *, models=None, **options):
    model, small, kept = models or cut(form)
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


OTHERS = tuple(
    next(form for form in FORMS if form.family == family) for family in ("llama", "gemma2", "gpt_neox")
)
"""Tied ones: of families that are like many, with norms behind writers, and with halves beside each other."""


# All forms are in ``make repair``: here one of each family, and others where its halves or its stream are unlike.
@pytest.mark.parametrize(
    "form",
    FORMS if os.environ.get("SHEAR_LIT_FORMS") == "all" else (*ONE_OF_EACH, *OTHERS),
    ids=str,
)
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
    assert (family_of(small.config).embedding + ".weight" in changed) is tied
    assert any("lm_head" in name for name in refitted) is not tied


def flat(values):
    return values.flatten(0, 1).double()


def pulled(given, share):
    """The pull as rows: one for each input, in the ratio of its size."""
    sizes = given.square().mean(0).sqrt()
    return (share * given.square().sum(0).mean() * sizes / sizes.mean()).sqrt().diag()


@pytest.mark.parametrize("form", [FORMS[0], FORMS[1]], ids=str)
def test_first_writer_is_the_ridge_solution_of_what_flows(form):
    """Of rows that are recorded here, with the pull as rows of their own: least squares by another way."""
    share, passages = 0.03, text()
    model, small, kept = cut(form)
    ids = torch.cat([passage.inputs["input_ids"] for passage in passages])
    seen = {}

    def see(name):
        def hook(module, given, put_out):
            seen[name] = (given[0], put_out)

        return hook

    old = int(kept.layers[0])
    modules = {
        "source": model.model.layers[old].self_attn.o_proj,
        "before": model.model.layers[old],
        "carved": small.model.layers[0].self_attn.o_proj,
        "stream": small.model.layers[0],
    }
    handles = [module.register_forward_hook(see(name)) for name, module in modules.items()]
    with torch.no_grad():
        model(input_ids=ids)
        small(input_ids=ids)
    for handle in handles:
        handle.remove()
    given = flat(seen["carved"][0])
    middle = seen["before"][0] + seen["source"][1]
    wanted = flat(middle[..., kept.hidden] - seen["stream"][0])
    writer = modules["carved"]
    start = writer.weight.detach().double()
    if writer.bias is not None:
        given = torch.cat([given, torch.ones(len(given), 1).double()], dim=1)
        start = torch.cat([start, writer.bias.detach().double()[:, None]], dim=1)
    pull = pulled(given, share)
    rows, targets = torch.cat([given, pull]), torch.cat([wanted, pull @ start.T])
    expected = torch.linalg.lstsq(rows, targets).solution.T
    repair(
        model,
        small,
        family_of(model.config),
        family_of(small.config),
        kept,
        passages,
        parts="writers",
        device=device(),
        shares=(share,),
    )
    found = writer.weight.detach().double()
    if writer.bias is not None:
        found = torch.cat([found, writer.bias.detach().double()[:, None]], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_nothing_is_changed_where_nothing_is_cut():
    model = model_of(FORMS[0])
    family = family_of(model.config)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    kept = kept_units({}, family.shape)
    assert repair(model, model, family, family, kept, text(2), device=device()) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def test_weight_that_is_no_better_on_text_held_out_stays_as_it_was():
    """With four tokens to fit hundreds of columns to, little holds for other text."""
    _, small, _, before, found = repaired(FORMS[0], text(3, rows=2, length=2), shares=(1e-9,))
    now = dict(small.named_parameters())
    for item in found:
        assert torch.equal(now[item.tensor], before[item.tensor]) is not item.refitted, item
        assert (item.after < item.before) is item.refitted, item
    assert any(not item.refitted for item in found)


def test_last_norm_before_a_tied_head_is_refitted_when_asked():
    *_, plain = repaired(FORMS[0], text())
    _, small, _, before, found = repaired(FORMS[0], text(), parts="norms")
    assert [item.tensor for item in found][: len(plain)] == [item.tensor for item in plain]
    assert found[-1].tensor == "model.norm.weight" and found[-1].after < found[-1].before
    assert not torch.equal(small.model.norm.weight, before["model.norm.weight"])


@pytest.mark.parametrize("form", [FORMS[0], FORMS[-2]], ids=str)
def test_tokens_that_do_not_count_change_nothing(form):
    plain, padded = text(10), []
    for passage in plain:
        ids = torch.cat([passage.inputs["input_ids"], torch.ones(ROWS, 3, dtype=torch.int64)], dim=1)
        counted = torch.ones_like(ids, dtype=torch.bool)
        counted[:, LENGTH:] = False
        padded.append(Passage({"input_ids": ids, "labels": ids}, passage.number, counted))
    padded.append(padded[0]._replace(number=10 * ROWS, counts=False))
    one, other = (repaired(form, passages)[1] for passages in (plain, padded))
    for (name, first), second in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[1]], ids=str)
def test_two_processes_with_half_of_the_text_each_find_what_one_does(form):
    passages = text()
    expected = repaired(form, passages)[1]
    meeting, parts, found = threading.Barrier(2), [None, None], [None, None]
    models = [cut(form), cut(form)]

    def process(rank):
        def summed(total):
            parts[rank] = total
            meeting.wait()
            both = parts[0] + parts[1]
            meeting.wait()
            return both

        found[rank] = repaired(form, passages[rank::2], models=models[rank], reduce=summed)[1]

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, tensor in expected.named_parameters():
        for network in found:
            torch.testing.assert_close(network.get_parameter(name), tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_head_is_the_ridge_solution_for_the_sources_logits():
    """Of rows and of logits, which the code never makes; a tied head goes half of the way."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(400, 12, generator=generator)
    kept = torch.tensor([0, 1, 3, 4, 6, 7, 9])
    rows[:, 2] = rows[:, kept] @ torch.randn(len(kept), generator=generator)
    source_head = torch.randn(50, 12, generator=generator)
    head, share = 1.5 * source_head[:, kept], 0.02
    held_out = torch.arange(400) >= 320
    moments = Moments(len(kept), 12, among_targets=True, device=torch.device("cpu"))
    moments.add(rows[:, kept], rows, fitted=320)
    moments.summed(None)
    given, logits = rows[:, kept].double(), (rows @ source_head.T).double()
    pull = pulled(given, share)
    longer, wanted = torch.cat([given, pull]), torch.cat([logits, pull @ head.double().T])
    expected = torch.linalg.lstsq(longer, wanted).solution.T
    whole, half = (refit_head(moments, source_head, head, shares=(share,), way=way) for way in (1.0, 0.5))
    torch.testing.assert_close(whole.weight, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half.weight, (expected + head) / 2, rtol=1e-5, atol=1e-5)
    left = (given @ head.double().T - logits)[held_out]
    centred = logits[held_out] - logits[held_out].mean(1, keepdim=True)
    before = (left - left.mean(1, keepdim=True)).square().sum() / centred.square().sum()
    assert whole.before == half.before == pytest.approx(float(before), rel=1e-5)
    assert whole.after < half.after < whole.before


def test_weight_of_an_input_that_is_always_0_stays_and_the_others_are_refitted():
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(3)).double()
    rows[:, 2] = 0
    start, targets = torch.ones(4, 5).double(), torch.zeros(60, 4).double()
    found = ridge(rows.T @ rows, rows.T @ targets, start, 1e-6)
    torch.testing.assert_close(found[:, 2], start[:, 2])
    assert found[:, [0, 1, 3, 4]].abs().max() < 1e-3
    assert ridge(torch.zeros(5, 5).double(), torch.zeros(5, 4).double(), start, 0.1) is None


GEMMA = next(form for form in FORMS if form.family == "gemma2" and form.tied)


@pytest.mark.parametrize("form", [next(form for form in FORMS if form.tied), GEMMA], ids=str)
def test_tied_embedding_is_judged_by_the_logits_that_its_kept_columns_give(form):
    """Also where a constant multiplies the cut's embedding, and its last norm divides by that.

    Of passages of seven sequences, others than the last ones are held out.
    """
    passages = text(rows=7)
    model, _, kept, _, found = repaired(form, passages)
    used = thinned(passages, TOKENS_A_CHANNEL * model.config.hidden_size, None)
    ids = torch.cat([passage.inputs["input_ids"] for passage in used])
    held_out = torch.cat([torch.arange(7) + passage.number for passage in used]) % HELD_OUT == HELD_OUT - 1
    seen = []
    handle = model.model.norm.register_forward_hook(lambda _, given, out: seen.append(out))
    with torch.no_grad():
        model(input_ids=ids[held_out])
        handle.remove()
        rows, head = flat(seen[0]), model.model.embed_tokens.weight.double()
        logits, left = rows @ head.T, rows[:, kept.hidden] @ head[:, kept.hidden].T - rows @ head.T
    squares = [(part - part.mean(1, keepdim=True)).square().sum() for part in (left, logits)]
    assert found[0].tensor == "model.embed_tokens.weight"
    assert found[0].before == pytest.approx(float(squares[0] / squares[1]), rel=1e-4)


@pytest.mark.parametrize("width", [1, 7, PANEL, 2 * PANEL + 3])
@pytest.mark.parametrize("fitted", [0, 4, 5])
def test_moments_are_whole_though_what_is_symmetric_is_computed_once(width, fitted):
    rows, targets = torch.randint(-9, 9, (5, width)).float(), torch.randint(-9, 9, (5, 3)).float()
    moments = Moments(width, 3, among_targets=True, device=torch.device("cpu"))
    for _ in range(2):
        moments.add(rows, targets, fitted)
    moments.summed(lambda total: 3 * total)
    for part, (a, y) in enumerate([(rows[:fitted], targets[:fitted]), (rows[fitted:], targets[fitted:])]):
        assert torch.equal(moments.gram[part], 6 * (a.T @ a).double())
        assert torch.equal(moments.cross[part], 6 * (a.T @ y).double())
    assert torch.equal(moments.target, 6 * (targets[fitted:].T @ targets[fitted:]).double())


def test_text_of_a_tied_embedding_is_thinned_alike_for_any_number_of_processes():
    passages = text(40)
    total = torch.tensor([40.0 * ROWS * LENGTH], dtype=torch.float64)
    whole = thinned(passages, 300, None)
    assert [passage.number for passage in whole] == [passage.number for passage in passages[::8]]
    parts = [thinned(passages[rank::2], 300, lambda _: total) for rank in range(2)]
    assert sorted(passage.number for part in parts for passage in part) == [
        passage.number for passage in whole
    ]


@pytest.mark.parametrize("best", range(7))
def test_best_share_is_found_on_the_way_down_from_the_middle(best):
    shares, asked = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6), []

    def cost(share):
        asked.append(share)
        return (shares.index(share) - best) ** 2.0

    found = downhill(cost, shares)
    assert min(found, key=found.__getitem__) == shares[best]
    assert list(found) == asked and len(asked) <= 5  # each once, and not all
