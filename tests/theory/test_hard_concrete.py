"""Hard-concrete gates against a transcription in numpy float64, and the properties that training relies on."""

import math

import numpy as np
import pytest
import torch

from shear_lit.theory import hard_concrete

LIMIT = math.log(100.0)  # written out, like every number of the transcription: it must not follow the code


def np_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_clamped(log_alpha):
    return np.clip(np.asarray(log_alpha, dtype=np.float64), math.log(1e-2), math.log(1e2))


def np_keep_probability(log_alpha):
    dropped = np_sigmoid(2 / 3 * math.log(0.1 / 1.1) - np_clamped(log_alpha))
    return np.clip(1 - dropped, 1e-6, 1 - 1e-6)


def np_sample(log_alpha, uniform):
    u = np.asarray(uniform, dtype=np.float64)
    s = np_sigmoid((np.log(u) - np.log(1 - u) + np_clamped(log_alpha)) / (2 / 3))
    return np.clip(s * 1.2 - 0.1, 0, 1)


def np_eval_gates(row, kept):
    """One row at a time, by removing the smallest, the last of equal ones first."""
    gates = np_sigmoid(0.8 * np_clamped(row) / (2 / 3))
    left = list(range(len(row)))
    while len(left) > kept:
        smallest = min(left, key=lambda i: (np_clamped(row)[i], -i))
        left.remove(smallest)
        gates[smallest] = 0
    return gates


def random_log_alpha(*shape, dtype=torch.float64, seed=0):
    """Values on both sides of both limits, the limits themselves among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64) * 4
    values.view(-1)[:4] = torch.tensor([LIMIT, -LIMIT, 50.0, -50.0], dtype=torch.float64)
    return values.to(dtype)


def random_uniform(*shape, dtype=torch.float64, seed=1):
    """Uniform numbers in (0, 1), two very close to the ends among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(*shape, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    values.view(-1)[:2] = torch.tensor([1e-6, 1 - 1e-6], dtype=torch.float64)
    return values.to(dtype)


def close(actual, expected, atol=1e-6):
    np.testing.assert_allclose(actual.detach().double().numpy(), expected, rtol=0, atol=atol)


def check_keep_probability(dtype=torch.float64):
    log_alpha = random_log_alpha(500, dtype=dtype)
    close(hard_concrete.keep_probability(log_alpha), np_keep_probability(log_alpha.numpy()))


def check_sample(dtype=torch.float64):
    log_alpha, uniform = random_log_alpha(20, 50, dtype=dtype), random_uniform(20, 50, dtype=dtype)
    close(hard_concrete.sample(log_alpha, uniform), np_sample(log_alpha.numpy(), uniform.numpy()))


def check_eval_gates_with_target(dtype=torch.float64):
    log_alpha = random_log_alpha(6, 11, dtype=dtype)
    for kept in range(12):
        expected = np.stack([np_eval_gates(row, kept) for row in log_alpha.numpy()])
        close(hard_concrete.deterministic(log_alpha, torch.full((6,), kept)), expected)


def check_eval_gates_as_they_are_now(dtype=torch.float64):
    log_alpha = random_log_alpha(6, 40, dtype=dtype)
    expected = [np_eval_gates(row, round(np_keep_probability(row).sum())) for row in log_alpha.numpy()]
    gates = hard_concrete.deterministic(log_alpha, hard_concrete.expected_kept(log_alpha))
    close(gates, np.stack(expected))


CHECKS = [
    check_keep_probability,
    check_sample,
    check_eval_gates_with_target,
    check_eval_gates_as_they_are_now,
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_gates_equal_their_transcription(check, dtype):
    check(dtype)


@pytest.mark.parametrize(
    ("constant", "value", "check"),
    [
        ("GAMMA", -0.11, check_keep_probability),
        ("ZETA", 1.09, check_keep_probability),
        ("BETA", 0.66, check_keep_probability),
        ("LOG_ALPHA_LIMIT", 4.6, check_keep_probability),
        ("_PROBABILITY_LIMIT", 1e-2, check_keep_probability),
        ("GAMMA", -0.11, check_sample),
        ("ZETA", 1.09, check_sample),
        ("BETA", 0.66, check_sample),
        ("LOG_ALPHA_LIMIT", 4.6, check_sample),
        ("BETA", 0.66, check_eval_gates_with_target),
        ("_DETERMINISTIC_SCALE", 0.81, check_eval_gates_with_target),
        ("LOG_ALPHA_LIMIT", 4.6, check_eval_gates_with_target),
        ("BETA", 1.5, check_eval_gates_as_they_are_now),
    ],
)
def test_gates_with_another_constant_differ_from_their_transcription(monkeypatch, constant, value, check):
    monkeypatch.setattr(hard_concrete, constant, value)
    with pytest.raises(AssertionError):
        check()


def check_frequency_of_open_gates():
    """Hoeffding: the mean of n draws misses p by more than sqrt(log(2 / d) / 2n) with probability below d.

    With n = 200,000 and d = 1e-9 per gate the bound is 0.0074.
    """
    draws, chance = 200_000, 1e-9
    bound = math.sqrt(math.log(2 / chance) / (2 * draws))
    log_alpha = torch.tensor([-9.0, -LIMIT, -3.0, -1.6, -0.5, 0.0, 1.0, LIMIT, 9.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(draws, len(log_alpha), generator=generator, dtype=torch.float64)
    opened = (hard_concrete.sample(log_alpha.expand(draws, -1), uniform) > 0).double().mean(0)
    return opened, bound, log_alpha


def test_keep_probability_is_the_frequency_of_open_gates():
    opened, bound, log_alpha = check_frequency_of_open_gates()
    assert (opened - hard_concrete.keep_probability(log_alpha)).abs().max() <= bound


def test_keep_probability_of_another_temperature_is_not_the_frequency_of_open_gates(monkeypatch):
    opened, bound, log_alpha = check_frequency_of_open_gates()
    monkeypatch.setattr(hard_concrete, "BETA", 0.6)
    assert (opened - hard_concrete.keep_probability(log_alpha)).abs().max() > bound


def test_sample_is_monotone_in_log_alpha_and_stays_in_the_unit_interval():
    """z is a composition of non-decreasing maps of log alpha, for every u."""
    log_alpha = torch.linspace(-8, 8, 201, dtype=torch.float64).unsqueeze(-1).expand(-1, 64)
    uniform = torch.rand(64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gates = hard_concrete.sample(log_alpha, uniform.expand_as(log_alpha).contiguous())
    assert (gates.diff(dim=0) >= 0).all()
    assert gates.min() == 0 and gates.max() == 1


def test_sample_is_the_same_for_the_same_noise():
    log_alpha, uniform = random_log_alpha(64, dtype=torch.float32), random_uniform(64, dtype=torch.float32)
    assert torch.equal(hard_concrete.sample(log_alpha, uniform), hard_concrete.sample(log_alpha, uniform))


def test_sample_closes_the_gate_where_the_noise_is_exactly_zero():
    """``torch.rand`` may return 0: the gate is 0 then, not nan, and so is its gradient."""
    log_alpha = torch.zeros(1, requires_grad=True)
    gate = hard_concrete.sample(log_alpha, torch.zeros(1))
    gate.sum().backward()
    assert gate.item() == 0 and log_alpha.grad.item() == 0


def finite_difference(function, point, step=1e-6):
    return (function(point + step) - function(point - step)) / (2 * step)


def gradient(function, point):
    point = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    function(point).sum().backward()
    return point.grad.numpy()


def check_gradient_of_keep_probability():
    points = np.linspace(-4.5, 4.5, 37)
    np.testing.assert_allclose(
        gradient(hard_concrete.keep_probability, points),
        finite_difference(np_keep_probability, points),
        rtol=0,
        atol=1e-8,
    )


def check_gradient_of_sample():
    points, uniform = np.linspace(-4.5, 4.5, 37), np.linspace(0.02, 0.98, 41)[:, None] * np.ones(37)
    points = np.broadcast_to(points, uniform.shape).copy()
    actual = gradient(lambda x: hard_concrete.sample(x, torch.tensor(uniform)), points)
    gates = np_sample(points, uniform)
    # No derivative exists where the gate has just closed or opened: leave out what lies within 1e-4 of it.
    smooth = (gates == 0) | (gates == 1) | ((gates > 1e-4) & (gates < 1 - 1e-4))
    expected = finite_difference(lambda x: np_sample(x, uniform), points)
    np.testing.assert_allclose(actual[smooth], expected[smooth], rtol=0, atol=1e-8)
    assert (gates == 0).any() and (gates == 1).any() and ((gates > 0) & (gates < 1)).any()


@pytest.mark.parametrize("check", [check_gradient_of_keep_probability, check_gradient_of_sample])
def test_gradient_equals_finite_differences(check):
    check()


@pytest.mark.parametrize("check", [check_gradient_of_keep_probability, check_gradient_of_sample])
def test_gradient_of_another_temperature_differs_from_finite_differences(monkeypatch, check):
    monkeypatch.setattr(hard_concrete, "BETA", 0.66)
    with pytest.raises(AssertionError):
        check()


def check_gradient_passes_the_limits():
    """At and beyond a limit, the slope is that of the curve at the limit, continued."""
    points = np.array([LIMIT, 6.0, -LIMIT, -6.0])

    def unclamped(x):
        return 1 - np_sigmoid(2 / 3 * math.log(0.1 / 1.1) - x)

    for dtype in (torch.float32, torch.float64):
        log_alpha = torch.tensor(points, dtype=dtype, requires_grad=True)
        hard_concrete.keep_probability(log_alpha).sum().backward()
        close(log_alpha.grad, finite_difference(unclamped, np.clip(points, -LIMIT, LIMIT)), atol=1e-7)


def test_gradient_passes_the_limits_of_log_alpha():
    check_gradient_passes_the_limits()


def torch_clamped(log_alpha):
    return log_alpha.clamp(-LIMIT, LIMIT)


def test_gradient_of_a_plain_clamp_does_not_pass_the_limits(monkeypatch):
    monkeypatch.setattr(hard_concrete, "clamped", torch_clamped)
    with pytest.raises(AssertionError):
        check_gradient_passes_the_limits()


def train(direction, steps, log_alpha, *, clamp=True):
    """Push the keep probability up (1) or down (-1) with the release's learning rate for gates."""
    optimizer = torch.optim.AdamW([log_alpha], lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        (-direction * hard_concrete.keep_probability(log_alpha)).sum().backward()
        optimizer.step()
        if clamp:
            hard_concrete.clamp_(log_alpha)


def test_gate_leaves_the_top_where_it_starts():
    log_alpha = torch.nn.Parameter(torch.full((3,), hard_concrete.LOG_ALPHA_LIMIT))
    train(-1, 3, log_alpha)
    assert (log_alpha < 2).all()


def test_gate_never_leaves_the_top_under_a_plain_clamp(monkeypatch):
    monkeypatch.setattr(hard_concrete, "clamped", torch_clamped)
    log_alpha = torch.nn.Parameter(torch.full((3,), hard_concrete.LOG_ALPHA_LIMIT))
    train(-1, 3, log_alpha)
    assert (log_alpha > 4.6).all()


@pytest.mark.parametrize(("clamp", "comes_back"), [(True, True), (False, False)])
def test_gate_pushed_beyond_its_limit_comes_back_at_once_only_if_the_parameter_is_clamped(clamp, comes_back):
    log_alpha = torch.nn.Parameter(torch.zeros(3))
    train(1, 50, log_alpha, clamp=clamp)
    train(-1, 5, log_alpha, clamp=clamp)
    assert (log_alpha < 2).all() == comes_back


def test_clamp_brings_the_parameter_inside_its_limits_and_keeps_the_rest():
    log_alpha = torch.nn.Parameter(torch.tensor([-50.0, -1.0, 0.0, 3.0, 50.0]))
    hard_concrete.clamp_(log_alpha)
    expected = torch.tensor([-LIMIT, -1.0, 0.0, 3.0, LIMIT])
    torch.testing.assert_close(log_alpha.detach(), expected, rtol=0, atol=1e-6)
    assert log_alpha.requires_grad and log_alpha.grad_fn is None


@pytest.mark.parametrize("rows", [(), (3,), (3, 2)], ids=str)
def test_eval_gates_keep_exactly_the_target_in_every_row(rows):
    log_alpha = random_log_alpha(*rows, 12, seed=3)
    kept = torch.randint(0, 13, rows, generator=torch.Generator().manual_seed(4))
    gates = hard_concrete.deterministic(log_alpha, kept)
    assert torch.equal((gates > 0).sum(-1), kept)
    weakest_kept = torch.where(gates > 0, hard_concrete.clamped(log_alpha), math.inf).amin(-1)
    strongest_dropped = torch.where(gates == 0, hard_concrete.clamped(log_alpha), -math.inf).amax(-1)
    assert (weakest_kept >= strongest_dropped).all()


def test_eval_gates_of_equal_units_keep_those_that_come_first():
    log_alpha = torch.full((2, 6), hard_concrete.LOG_ALPHA_LIMIT)
    gates = hard_concrete.deterministic(log_alpha, torch.tensor([2, 5]))
    assert torch.equal(gates > 0, torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool))


def test_eval_gates_treat_units_beyond_the_limit_as_equal():
    gates = hard_concrete.deterministic(torch.tensor([5.0, 50.0, 0.0]), torch.tensor(1))
    assert torch.equal(gates > 0, torch.tensor([True, False, False]))


def test_expected_kept_is_the_rounded_sum_of_keep_probabilities():
    log_alpha = random_log_alpha(8, 30, seed=5)
    expected = [round(np_keep_probability(row).sum()) for row in log_alpha.numpy()]
    assert hard_concrete.expected_kept(log_alpha).tolist() == expected


def test_expected_kept_leaves_at_least_one_unit():
    """Two units at the bottom are expected to keep 0.1 of a unit."""
    assert hard_concrete.expected_kept(torch.full((2, 2), -9.0)).tolist() == [1, 1]
