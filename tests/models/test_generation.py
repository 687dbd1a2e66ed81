"""What a model writes itself, beside what it expects in one pass over the whole text."""

import pytest
import torch
from transformers import GenerationConfig

from shear_lit.models.generation import generated
from tests.toy_families import ONE_OF_EACH, model_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_each_token_is_drawn_from_what_the_model_expects_of_all_before_it(form):
    """The same numbers by lot, on chances of passes without a cache, give the same tokens."""
    model, before = model_of(form, dtype=torch.float32).eval(), torch.get_rng_state()
    found = generated(model, 4, length=9, vocabulary=40, seed=3, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(3)
        expected = torch.randint(40, (4, 1))
        while expected.shape[1] < 9:
            logits = model(input_ids=expected, use_cache=False).logits[:, -1]
            chances = logits[:, :40].softmax(-1).cumsum(-1)
            drawn = torch.rand(4, 1) * chances[:, -1:]
            expected = torch.cat([expected, torch.searchsorted(chances, drawn, right=True)], dim=1)
    assert torch.equal(found, expected)


def test_tokens_are_as_frequent_as_the_model_expects_them():
    model = model_of(ONE_OF_EACH[0], dtype=torch.float32).eval()
    rows = 20_000
    # Weights by lot expect all tokens alike.
    model.get_output_embeddings().weight.data.mul_(20)
    found = generated(model, rows, length=2, vocabulary=40, seed=5, device=CPU)
    with torch.no_grad():
        chances = model(input_ids=found[:, :1]).logits[:, -1, :40].double().softmax(-1)
    counts, expected = found[:, 1].bincount(minlength=40), chances.sum(0)
    assert chances.max() > 0.2 > 0.001 > chances.min()
    assert ((counts - expected).abs() < 5 * (chances * (1 - chances)).sum(0).sqrt() + 1).all()


def test_a_draw_that_rounding_lifts_to_the_whole_is_a_token_all_the_same(monkeypatch):
    """The largest number below one times a sum below one can be the sum: no token's chances reach beyond it."""
    model = model_of(ONE_OF_EACH[0], dtype=torch.float32).eval()
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.ones(shape))
    found = generated(model, 4, length=5, vocabulary=7, seed=1, device=CPU)
    assert found[:, 1:].eq(6).all()
    allowed = torch.arange(7) % 2 == 1
    found = generated(model, 4, length=5, vocabulary=7, seed=1, device=CPU, writes=allowed)
    assert allowed[found[:, 1:]].all()


def test_what_may_begin_and_what_may_follow_are_drawn_as_they_are_expected():
    model = model_of(ONE_OF_EACH[0], dtype=torch.float32).eval()
    model.get_output_embeddings().weight.data.mul_(20)
    begins, allowed, rows = torch.zeros(40), torch.arange(40) % 3 == 1, 20_000
    begins[[4, 5, 30]] = torch.tensor([0.5, 0.3, 0.2])
    found = generated(model, rows, length=2, vocabulary=40, seed=5, device=CPU, begins=begins, writes=allowed)
    counts = found[:, 0].bincount(minlength=40) / rows
    torch.testing.assert_close(counts, begins, rtol=0, atol=0.02)
    with torch.no_grad():
        logits = model(input_ids=found[:, :1]).logits[:, -1, :40].double()
    chances = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
    counts, expected = found[:, 1].bincount(minlength=40), chances.sum(0)
    assert ((counts - expected).abs() < 5 * (chances * (1 - chances)).sum(0).sqrt() + 1).all()
    assert (counts > 0)[allowed].sum() > 5 and not counts[~allowed].any()


def test_another_seed_gives_other_text_and_no_token_is_beyond_the_vocabulary():
    model = model_of(ONE_OF_EACH[0], dtype=torch.float32).eval()
    one, same, other = (
        generated(model, 64, length=6, vocabulary=7, seed=seed, device=CPU) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert set(one.unique().tolist()) == set(range(7))


def test_settings_that_the_source_comes_with_change_nothing():
    """Those of a published model sharpen what it says, and end it: it would not write all that it knows."""
    model = model_of(ONE_OF_EACH[0], dtype=torch.float32).eval()
    plain = generated(model, 8, length=9, vocabulary=40, seed=3, device=CPU)
    own = GenerationConfig(
        do_sample=True,
        temperature=0.05,
        top_p=0.3,
        repetition_penalty=1.9,
        eos_token_id=5,
        forced_eos_token_id=5,
    )
    model.generation_config = own
    assert torch.equal(generated(model, 8, length=9, vocabulary=40, seed=3, device=CPU), plain)
    assert model.generation_config is own
