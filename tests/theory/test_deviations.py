"""Where the equations differ from the authors' release on purpose (docs/deviations.md), shown by number."""

import math

import numpy as np
import pytest
import torch

from shear_lit.theory import constraint, exact_size, hard_concrete
from shear_lit.theory.mixture import MixtureRule, update_weights

# cc, github, book, stackexchange, wiki, arxiv, c4-rp
START = [0.67, 0.045, 0.045, 0.02, 0.045, 0.025, 0.15]
REFERENCE_1_3B = [1.9643, 0.7459, 2.1393, 1.6117, 1.7590, 1.4449, 2.1251]
LOSS_LLAMA2_7B = [1.7520, 0.6216, 1.9063, 1.4482, 1.4844, 1.2637, 1.9219]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def np_release_mixture(weights, loss, reference):
    """The release: softmax(log w + difference), then 1e-4 of the uniform mixture."""
    logits = np.log(weights) + (np.asarray(loss) - np.asarray(reference))
    updated = np.exp(logits) / np.exp(logits).sum()
    return (1 - 1e-4) * updated + 1e-4 / len(weights)


def test_d1_release_rule_reproduces_the_release():
    actual = update_weights(
        tensor(START), tensor(LOSS_LLAMA2_7B), tensor(REFERENCE_1_3B), rule=MixtureRule.RELEASE
    )
    expected = np_release_mixture(START, LOSS_LLAMA2_7B, REFERENCE_1_3B)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-12)


def test_d1_paper_rule_keeps_the_mixture_where_the_release_moves_it():
    """Llama-2-7B is ahead of the 1.3B references in every domain: nothing lags, so nothing should move."""
    case = tensor(START), tensor(LOSS_LLAMA2_7B), tensor(REFERENCE_1_3B)
    torch.testing.assert_close(update_weights(*case), case[0], rtol=0, atol=1e-12)
    moved = update_weights(*case, rule=MixtureRule.RELEASE) / case[0] - 1
    assert moved[1].item() == pytest.approx(0.0884, abs=5e-4)  # github, the least ahead
    assert moved[4].item() == pytest.approx(-0.0635, abs=5e-4)  # wiki, the furthest ahead


def test_d4_initialisation_of_the_release_makes_all_gates_equal():
    """N(5, 0.01) lies 39 standard deviations above the clamp at log 100."""
    drawn = torch.normal(5.0, 0.01, (100_000,), generator=torch.Generator().manual_seed(0))
    clamped = hard_concrete.clamped(drawn)
    assert drawn.unique().numel() > 1000
    assert clamped.unique().tolist() == [pytest.approx(math.log(100), abs=1e-6)]


def test_d4_without_the_clamp_the_gates_would_differ(monkeypatch):
    monkeypatch.setattr(hard_concrete, "LOG_ALPHA_LIMIT", 10.0)
    drawn = torch.normal(5.0, 0.01, (1000,), generator=torch.Generator().manual_seed(0))
    assert hard_concrete.clamped(drawn).unique().numel() > 100


def np_adamw(gradients, learning_rate, weight_decay=0.0):
    """AdamW on one number that starts at 1, with any sign of the learning rate."""
    value, average, square = 1.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        value -= learning_rate * weight_decay * value
        average = 0.9 * average + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        corrected = average / (1 - 0.9**step), square / (1 - 0.95**step)
        value -= learning_rate * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
    return value


def torch_adamw(gradients, *, maximize, weight_decay=0.0):
    value = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    group = {"params": [value], "maximize": maximize, "weight_decay": weight_decay}
    optimizer = torch.optim.AdamW([group], lr=0.5, betas=(0.9, 0.95), eps=1e-8)
    for gradient in gradients:
        value.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return value.item()


GRADIENTS = [0.3, -0.1, 0.8, 0.0, -2.0, 0.5, 0.01]


def test_d5_maximize_is_the_update_of_a_negative_learning_rate():
    assert torch_adamw(GRADIENTS, maximize=True) == pytest.approx(np_adamw(GRADIENTS, -0.5), abs=1e-12)


def test_d5_minimising_is_another_update():
    assert torch_adamw(GRADIENTS, maximize=False) != pytest.approx(np_adamw(GRADIENTS, -0.5), abs=1e-2)


def test_d5_weight_decay_would_tell_the_two_apart():
    """A negative learning rate turns decay into growth: multipliers have none."""
    maximized = torch_adamw(GRADIENTS, maximize=True, weight_decay=0.1)
    assert maximized != pytest.approx(np_adamw(GRADIENTS, -0.5, weight_decay=0.1), abs=1e-2)


def test_d5_torch_refuses_a_negative_learning_rate():
    with pytest.raises(ValueError, match="learning rate"):
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=-1.0)


def played(second_start, steps=60):
    """A row of equal gates against a schedule that falls over half of the steps; the largest distance from it."""
    log_alpha = torch.nn.Parameter(torch.full((64,), hard_concrete.LOG_ALPHA_LIMIT))
    first, second = (torch.nn.Parameter(torch.tensor(start)) for start in (0.0, second_start))
    groups = [{"params": [log_alpha]}, {"params": [first, second], "maximize": True}]
    optimizer = torch.optim.AdamW(groups, lr=0.5, betas=(0.9, 0.95), weight_decay=0.0)
    furthest = 0.0
    for step in range(steps):
        asked = constraint.scheduled_sparsity(step, start=0.0, target=0.25, warmup_steps=steps // 2)
        lost = constraint.sparsity(hard_concrete.keep_probability(log_alpha))
        furthest = max(furthest, abs(lost.item() - asked))
        optimizer.zero_grad()
        constraint.size_penalty(lost, asked, first, second).backward()
        optimizer.step()
        hard_concrete.clamp_(log_alpha)
    return furthest


def test_d12_second_multiplier_that_starts_high_keeps_the_size_on_its_schedule():
    assert played(1000.0) < 0.07


def test_d12_multipliers_that_start_at_zero_wind_up_and_overshoot():
    assert played(0.0) > 0.3


def test_d13_exact_size_is_on_its_schedule_at_every_step_without_multipliers():
    parameter = torch.linspace(-4.6, 4.6, 64)
    for step in range(0, 60, 7):
        asked = constraint.scheduled_sparsity(step, start=0.0, target=0.25, warmup_steps=30)
        log_alpha = exact_size.shifted(parameter, 64 * (1 - asked), sharpness=1.0 + step)
        lost = constraint.sparsity(exact_size.keep_probability(log_alpha))
        assert lost.item() == pytest.approx(asked, abs=1e-5)


def test_d9_row_keeps_a_unit_where_the_rounded_expectation_is_none():
    log_alpha = torch.full((4, 10), -hard_concrete.LOG_ALPHA_LIMIT)
    assert hard_concrete.keep_probability(log_alpha).sum(-1).round().tolist() == [0, 0, 0, 0]
    assert hard_concrete.expected_kept(log_alpha).tolist() == [1, 1, 1, 1]


def test_d10_equal_gates_keep_the_first_units():
    log_alpha = torch.zeros(1000)
    kept = hard_concrete.kept_units(log_alpha, torch.tensor(500))
    assert kept[:500].all() and not kept[500:].any()


def test_d11_domain_of_weight_zero_is_not_brought_back_by_the_floor():
    case = tensor([0.5, 0.5, 0.0]), tensor([2.0, 2.0, 2.0]), tensor([2.0, 2.0, 2.0])
    updated = update_weights(*case, rule=MixtureRule.RELEASE)
    with np.errstate(divide="ignore"):
        of_release = np_release_mixture(*(value.numpy() for value in case))
    assert updated.tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert of_release[2] == pytest.approx(1e-4 / 3)
