"""The size constraint against a transcription in numpy, and the game between gates and multipliers."""

import numpy as np
import pytest
import torch

from shear_lit.theory import constraint, hard_concrete


def np_penalty(keep_probability, target, first, second):
    excess = (1 - np.asarray(keep_probability).mean(-1)) - target
    return np.mean(first * excess + second * excess**2)


def random_keep_probability(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def number(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def check_penalty():
    for shape in [(7,), (5, 7), (3, 2, 7)]:
        keep = random_keep_probability(*shape)
        actual = constraint.size_penalty(constraint.sparsity(keep), 0.4, number(0.3), number(-1.7))
        np.testing.assert_allclose(
            actual.item(), np_penalty(keep.numpy(), 0.4, 0.3, -1.7), rtol=0, atol=1e-12
        )


def test_penalty_equals_its_transcription():
    check_penalty()


def test_penalty_of_another_sparsity_differs_from_its_transcription(monkeypatch):
    monkeypatch.setattr(constraint, "sparsity", lambda keep: 1 - keep.mean(-1) * 1.001)
    with pytest.raises(AssertionError):
        check_penalty()


def test_penalty_of_the_mean_row_is_not_the_mean_penalty_of_the_rows():
    """Rows that miss the target on opposite sides do not cancel in the quadratic term."""
    rows = torch.tensor([0.3, 0.5], dtype=torch.float64)
    penalty = constraint.size_penalty(rows, 0.4, number(0.0), number(1.0))
    assert penalty.item() == pytest.approx(0.01)


def test_penalty_takes_its_target_as_a_tensor_too():
    rows = torch.tensor([0.3, 0.5], dtype=torch.float64)
    as_tensor = constraint.size_penalty(
        rows, torch.tensor(0.1, dtype=torch.float64), number(1.0), number(2.0)
    )
    assert as_tensor.item() == constraint.size_penalty(rows, 0.1, number(1.0), number(2.0)).item()


def check_gradients():
    keep = random_keep_probability(4, 6).requires_grad_()
    first, second = number(0.3), number(-1.7)
    constraint.size_penalty(constraint.sparsity(keep), 0.4, first, second).backward()
    point, step = keep.detach().numpy(), 1e-6

    def slope(function):
        return (function(step) - function(-step)) / (2 * step)

    for index in np.ndindex(*point.shape):
        unit = np.zeros_like(point)
        unit[index] = 1

        def along(h, unit=unit):
            return np_penalty(point + h * unit, 0.4, 0.3, -1.7)

        assert keep.grad[index].item() == pytest.approx(slope(along), abs=1e-8)
    assert first.grad.item() == pytest.approx(
        slope(lambda h: np_penalty(point, 0.4, 0.3 + h, -1.7)), abs=1e-8
    )
    assert second.grad.item() == pytest.approx(
        slope(lambda h: np_penalty(point, 0.4, 0.3, -1.7 + h)), abs=1e-8
    )


def test_gradients_of_the_penalty_equal_finite_differences():
    check_gradients()


def test_gradients_of_another_penalty_differ_from_finite_differences(monkeypatch):
    penalty = constraint.size_penalty
    monkeypatch.setattr(constraint, "size_penalty", lambda *arguments: 1.001 * penalty(*arguments))
    with pytest.raises(AssertionError):
        check_gradients()


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (160, 0.2), (320, 0.3), (639, 0.49938), (640, 0.5), (3200, 0.5)]
)
def test_schedule_rises_linearly_and_then_stays(step, expected):
    asked = constraint.scheduled_sparsity(step, start=0.1, target=0.5, warmup_steps=640)
    assert asked == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("step", [0, 1, 100])
def test_schedule_without_warmup_asks_for_the_target_from_the_first_step(step):
    assert constraint.scheduled_sparsity(step, start=0.0, target=0.5, warmup_steps=0) == 0.5


def play(steps, *, maximize, target=0.5, learning_rate=1.0):
    """Gates against multipliers alone: no language loss. Returns the last sparsity, penalty and multipliers."""
    log_alpha = torch.nn.Parameter(torch.full((64,), hard_concrete.LOG_ALPHA_LIMIT))
    first, second = (torch.nn.Parameter(torch.tensor(0.0)) for _ in range(2))
    groups = [
        {"params": [log_alpha], "lr": learning_rate},
        {"params": [first, second], "lr": learning_rate, "maximize": maximize},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        found = constraint.sparsity(hard_concrete.keep_probability(log_alpha))
        penalty = constraint.size_penalty(found, target, first, second)
        penalty.backward()
        optimizer.step()
        hard_concrete.clamp_(log_alpha)
    found = constraint.sparsity(hard_concrete.keep_probability(log_alpha.detach()))
    penalty = constraint.size_penalty(found, target, first.detach(), second.detach())
    return found.item(), penalty.item(), first.item(), second.item()


def test_multipliers_ascend_when_the_model_is_too_large():
    """Both move away from 0 so that being too large costs: s - t < 0, so the first falls and the second rises."""
    found, penalty, first, second = play(2, maximize=True)
    assert found < 0.5
    assert first < 0 < second
    assert penalty > 0


def test_multipliers_that_descend_reward_a_model_that_is_too_large():
    found, penalty, first, second = play(2, maximize=False)
    assert found < 0.5
    assert second < 0 < first
    assert penalty < 0


def test_game_ends_at_the_target_size():
    found, *_ = play(400, maximize=True, learning_rate=0.1)
    assert found == pytest.approx(0.5, abs=0.02)


def test_game_with_descending_multipliers_never_removes_a_unit():
    found, *_ = play(400, maximize=False, learning_rate=0.1)
    assert found < 0.01
