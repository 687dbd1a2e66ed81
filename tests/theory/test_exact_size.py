"""Gates of an exact size against a transcription in numpy float64, and what training relies on."""

import math

import numpy as np
import pytest
import torch
from torch.autograd.gradcheck import GradcheckError

from shear_lit.theory import exact_size, hard_concrete

THRESHOLD = 2 / 3 * math.log(0.1 / 1.1)  # written out: it must not follow the code


def np_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_probability(log_alpha, noise):
    return np.clip(np_sigmoid((log_alpha - THRESHOLD) / noise), 1e-6, 1 - 1e-6)


def np_shifted(row, kept, sharpness, noise):
    """One row, by halving the interval in which the shift lies, until it is as small as numbers are."""
    low, high = -1e4, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        total = np_sigmoid(np.clip((sharpness * row + middle - THRESHOLD) / noise, -700, 700)).sum()
        low, high = (low, middle) if total > kept else (middle, high)
    return sharpness * row + (low + high) / 2


def random_rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 2).clamp(-4.605, 4.605)


def check_shift():
    for kept, sharpness, noise in [(3.0, 1.0, 1.0), (7.25, 2.0, 1.0), (11.5, 1.0, 0.5), (0.4, 0.7, 1.0)]:
        rows = random_rows(4, 12)
        actual = exact_size.shifted(rows, kept, sharpness=sharpness, noise=noise)
        expected = np.stack([np_shifted(row, kept, sharpness, noise) for row in rows.numpy()])
        np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-6)


def test_shift_equals_its_transcription():
    check_shift()


@pytest.mark.parametrize(("name", "value"), [("_HALVINGS", 20), ("_LEEWAY", 0.1)])
def test_coarser_shift_differs_from_its_transcription(monkeypatch, name, value):
    monkeypatch.setattr(exact_size, name, value)
    with pytest.raises(AssertionError):
        check_shift()


def test_probabilities_and_draws_equal_their_transcription():
    rows, uniform = random_rows(6, 9) * 3, torch.rand(6, 9, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    for noise in (1.0, 0.3):
        found = exact_size.keep_probability(rows, noise=noise).numpy()
        np.testing.assert_allclose(found, np_probability(rows.numpy(), noise), rtol=0, atol=1e-12)
        u = uniform.numpy()
        s = np_sigmoid((noise * np.log(u / (1 - u)) + rows.numpy()) / (2 / 3))
        drawn = exact_size.sample(rows, uniform, noise=noise).numpy()
        np.testing.assert_allclose(drawn, np.clip(s * 1.2 - 0.1, 0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise", [1.0, 0.2])
@pytest.mark.parametrize("sharpness", [1.0, 20.0, 100.0])
@pytest.mark.parametrize("kept", [1.0, 7.5, 29.0, 30.0])
def test_probabilities_of_a_row_sum_to_the_size(kept, sharpness, noise):
    """Clamps of 1e-6 at both ends and the leeway of a sharp row leave 2e-4 of a unit."""
    rows = random_rows(3, 2, 30).float()
    log_alpha = exact_size.shifted(rows, kept, sharpness=sharpness, noise=noise)
    sums = exact_size.keep_probability(log_alpha.double(), noise=noise).sum(-1)
    assert float((sums - kept).abs().max()) < 2e-4 + 1e-6 * 30 + 1e-4 * sharpness / 100


def test_probability_is_the_frequency_of_open_gates():
    """Hoeffding: with 100,000 draws the mean misses by more than 0.0104 with a chance of 1e-9 per gate."""
    log_alpha = torch.tensor([-4.0, -2.0, -1.6, -1.0, 0.0, 3.0], dtype=torch.float64)
    uniform = torch.rand(100_000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for noise in (1.0, 0.4):
        opened = (exact_size.sample(log_alpha.expand(100_000, -1), uniform, noise=noise) > 0).double().mean(0)
        assert (opened - exact_size.keep_probability(log_alpha, noise=noise)).abs().max() < 0.0104


def check_gradient():
    rows = random_rows(3, 7).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: exact_size.shifted(x, 3.3, sharpness=1.7, noise=0.8), (rows,), eps=1e-5, atol=1e-5
    )


def test_gradient_through_the_shift_equals_finite_differences():
    check_gradient()


def test_gradient_that_leaves_out_the_shift_does_not(monkeypatch):
    monkeypatch.setattr(exact_size, "_steepness", lambda log_alpha, noise: torch.zeros_like(log_alpha))
    with pytest.raises(GradcheckError, match="Jacobian"):
        check_gradient()


def test_units_of_a_row_compete_and_rows_do_not():
    """Pulling one unit up pushes the others of its row down, by as much in probability, and leaves other rows alone."""
    rows = random_rows(2, 5).requires_grad_()
    probabilities = exact_size.keep_probability(exact_size.shifted(rows, 2.0, sharpness=1.0))
    (gradient,) = torch.autograd.grad(probabilities[0, 0], rows)
    assert gradient[0, 0] > 0 and (gradient[0, 1:] < 0).all() and (gradient[1] == 0).all()
    (of_sum,) = torch.autograd.grad(
        exact_size.keep_probability(exact_size.shifted(rows, 2.0, sharpness=1.0)).sum(), rows
    )
    assert of_sum.abs().max() < 1e-9


@pytest.mark.parametrize("noise", [1.0, 0.05])
def test_row_without_an_undecided_unit_has_its_threshold_in_the_middle_and_a_finite_gradient(noise):
    rows = torch.tensor([4.0, 3.5, -3.5, -4.0], requires_grad=True)
    log_alpha = exact_size.shifted(rows, 2.0, sharpness=100.0, noise=noise)
    least_kept, first_gone = log_alpha.detach()[1:3].tolist()
    assert least_kept - THRESHOLD == pytest.approx(THRESHOLD - first_gone, rel=1e-3)
    gates = exact_size.sample(log_alpha, torch.full((4,), 0.5), noise=noise)
    gates.sum().backward()
    assert gates.tolist() == [1, 1, 0, 0] and rows.grad.isfinite().all()


def test_order_of_sharp_units_far_beyond_the_limits_of_log_alpha_is_kept():
    """Under those limits, all would be equal and the first be kept."""
    log_alpha = torch.tensor([10.0, 30.0, 20.0])
    kept = exact_size.deterministic(log_alpha, torch.tensor(2)) > 0
    assert kept.tolist() == [False, True, True]
    assert (hard_concrete.deterministic(log_alpha, torch.tensor(2)) > 0).tolist() == [True, True, False]


def test_sharpness_grows_by_equal_ratios_and_then_stays():
    found = [
        exact_size.sharpness_at(progress, start=2.0, final=32.0) for progress in (0.0, 0.25, 0.5, 1.0, 3.0)
    ]
    assert found == pytest.approx([2, 4, 8, 32, 32])


PARTS = {"cpu": 64}
"""As on a GPU."""


def several():
    """Parameters of the axes of a model, each with rows of its own."""
    shapes = [(7,), (30,), (7, 5), (7, 5, 3), (7, 24)]
    rows = [random_rows(*shape, seed=seed).float() for seed, shape in enumerate(shapes)]
    return rows, [3.0, 20.5, 4.0, 1.0, 11.25]


@pytest.mark.parametrize("sharpness", [1.0, 50.0, 200.0])
@pytest.mark.parametrize("noise", [1.0, 0.2])
def test_all_rows_are_searched_at_once_in_few_rounds_as_one_by_one_in_many(monkeypatch, sharpness, noise):
    parameters, kept = several()
    one_by_one = [
        exact_size.shifts([parameter], [size], sharpness=sharpness, noise=noise)[0]
        for parameter, size in zip(parameters, kept, strict=True)
    ]
    monkeypatch.setattr(exact_size, "_PARTS", PARTS)
    for found, expected in zip(
        exact_size.shifts(parameters, kept, sharpness=sharpness, noise=noise), one_by_one, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_hundred_kernels_find_all_shifts_of_a_step(monkeypatch):
    monkeypatch.setattr(exact_size, "_PARTS", PARTS)
    parameters, kept = several()
    launched = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function not in VIEWS:
                launched.append(str(function))
            return function(*args, **(kwargs or {}))

    exact_size.shifts(parameters, kept, sharpness=50.0)  # what depends on shapes alone is made once
    with Count():
        exact_size.shifts(parameters, kept, sharpness=50.0)
    assert len(launched) <= 100, launched


ATEN = torch.ops.aten
VIEWS = {
    ATEN.view.default,
    ATEN.unsqueeze.default,
    ATEN.slice.Tensor,
    ATEN.detach.default,
    ATEN._unsafe_view.default,
    ATEN.alias.default,
}
"""What launches nothing."""
