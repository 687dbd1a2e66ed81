"""The shapes and types in the annotations of ``theory/`` are checked while testing, and only then."""

import importlib.util

import pytest
import torch
from jaxtyping import TypeCheckError

from shear_lit.theory import constraint, hard_concrete, mixture

three, four = torch.zeros(3), torch.zeros(4)
wide = torch.full((3,), 1 / 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "call",
    [
        lambda: hard_concrete.sample(three, four),
        lambda: hard_concrete.sample(three, torch.full((1,), 0.5)),
        lambda: hard_concrete.keep_probability(three.long()),
        lambda: hard_concrete.clamped([0.0, 1.0]),
        lambda: hard_concrete.clamp_(three.bool()),
        lambda: hard_concrete.expected_kept(torch.tensor(0.0)),
        lambda: hard_concrete.kept_units(torch.zeros(2, 3), torch.tensor([1, 1, 1])),
        lambda: hard_concrete.deterministic(torch.zeros(2, 3), torch.tensor([1.0, 1.0])),
        lambda: constraint.sparsity(torch.tensor(0.5)),
        lambda: constraint.size_penalty(three, 0.5, three, torch.tensor(0.0)),
        lambda: constraint.scheduled_sparsity(0.5, start=0.0, target=0.5, warmup_steps=10),
        lambda: mixture.update_weights(wide, wide[:2], wide),
        lambda: mixture.update_weights(wide.float(), wide, wide),
        lambda: mixture.update_weights(wide, wide, wide, rule="paper"),
    ],
)
def test_wrong_shape_or_type_is_refused_while_testing(call):
    with pytest.raises(TypeCheckError):
        call()


def test_module_loaded_without_the_check_accepts_a_wrong_shape():
    """The twin: what refuses above is the check, for the bare function broadcasts one number over three gates."""
    spec = importlib.util.spec_from_file_location("unchecked", hard_concrete.__file__)
    unchecked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unchecked)
    assert unchecked.sample(three, torch.full((1,), 0.5)).shape == (3,)
