"""What a unit's loss costs, against the error of the least-squares writer of the others."""

import pytest
import torch

from shear_lit.models.registry import family_of
from shear_lit.ranking import reconstruction
from shear_lit.ranking.reconstruction import by_reconstruction, removal_costs
from shear_lit.theory.shape import Axis
from tests.ranking.passages import passages
from tests.toy_models import toy_config, toy_ids, toy_model


@pytest.mark.parametrize("entries", [1, 3])
def test_cost_is_the_error_of_the_best_writer_of_the_others(entries, monkeypatch):
    """Of the unit that goes first, by leaving each out and solving for the others."""
    monkeypatch.setattr(reconstruction, "DAMPING", 0.0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 12, generator=generator, dtype=torch.float64) @ torch.randn(
        12, 12, generator=generator, dtype=torch.float64
    )
    weight = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    errors = []
    for unit in range(12 // entries):
        others = torch.tensor([column for column in range(12) if column // entries != unit])
        wanted = inputs @ weight.T
        solution = torch.linalg.lstsq(inputs[:, others], wanted).solution
        errors.append(float((inputs[:, others] @ solution - wanted).square().sum()))
    costs = removal_costs(inputs.T @ inputs, weight, entries=entries)
    first = int(torch.tensor(errors).argmin())
    assert int(costs.argmin()) == first and float(costs[first]) == pytest.approx(errors[first], rel=1e-6)


def test_twin_of_a_unit_goes_first_and_then_the_other_one_stays():
    """Sizes of activations cannot tell: each of the two is as large as the others."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    inputs[:, 4] = inputs[:, 1]
    costs = removal_costs(inputs.T @ inputs, torch.ones(3, 6, dtype=torch.float64), entries=1)
    order = costs.argsort().tolist()
    assert order[0] in (1, 4) and ({1, 4} - {order[0]}).pop() != order[1]


def test_blocks_of_which_few_fit_into_memory_are_read_for_one_after_the_other(monkeypatch):
    model, text = toy_model(toy_config()).float(), passages([toy_ids()])
    family, axes = family_of(model.config), (Axis.INTERMEDIATE, Axis.KV_HEADS)
    together = by_reconstruction(model, family, text, axes)
    monkeypatch.setattr(reconstruction, "MOST_BYTES", 1.0)
    apart = by_reconstruction(model, family, text, axes)
    assert together.keys() == apart.keys() == set(axes)
    assert all(torch.equal(together[axis], apart[axis]) for axis in axes)
