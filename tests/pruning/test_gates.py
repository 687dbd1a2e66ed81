"""The learned gates, their noise, and the multipliers."""

import math

import pytest
import torch

from shear_lit.pruning.constraints import LAGRANGIAN
from shear_lit.pruning.gates import Gates, Multipliers
from shear_lit.theory import hard_concrete
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis, ModelShape

SOURCE = ModelShape(layers=4, hidden=48, query_heads=12, kv_heads=4, intermediate=40)
TARGET = ModelShape(layers=2, hidden=36, query_heads=4, kv_heads=2, intermediate=24)
AXES = tuple(Axis)
KEY = (7, 11, 13)


def random_log_alpha(*, spread: float = 2.0) -> Gates:
    torch.manual_seed(0)
    gates = Gates(SOURCE, AXES)
    for parameter in gates.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    return gates


def test_noise_is_a_pure_function_of_its_key():
    first = keyed_uniform(SOURCE, AXES, key=KEY)
    torch.rand(5)  # the global generator plays no part, neither read nor moved
    state = torch.get_rng_state()
    second = keyed_uniform(SOURCE, AXES, key=KEY)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[axis], second[axis]) for axis in AXES)


@pytest.mark.parametrize("part", range(3), ids=["seed", "step", "micro_batch"])
def test_noise_differs_for_each_part_of_its_key(part):
    other = list(KEY)
    other[part] += 1
    left, right = keyed_uniform(SOURCE, AXES, key=KEY), keyed_uniform(SOURCE, AXES, key=tuple(other))
    assert all(not torch.isclose(left[axis], right[axis]).any() for axis in AXES)


def test_noise_differs_when_the_parts_of_the_key_change_places():
    """Step 1 of micro-batch 2 is not step 2 of micro-batch 1: a sum of the parts would say so."""
    draws = {
        tuple(keyed_uniform(SOURCE, (Axis.LAYERS,), key=key)[Axis.LAYERS].tolist())
        for key in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 0, 3), (3, 0, 0)]
    }
    assert len(draws) == 8


def test_noise_has_the_shapes_of_the_gates_and_lies_inside_its_ends():
    uniform = keyed_uniform(SOURCE, AXES, key=KEY)
    assert {axis: tuple(row.shape) for axis, row in uniform.items()} == {
        axis: SOURCE.gate_shape(axis) for axis in AXES
    }
    assert all(row.dtype == torch.float32 for row in uniform.values())
    assert all(float(row.min()) > 0 and float(row.max()) < 1 for row in uniform.values())


def test_noise_at_its_ends_gives_finite_gates():
    """The smallest and largest numbers that can be drawn."""
    ends = torch.tensor([1e-6, 1 - 1e-6], requires_grad=False)
    log_alpha = torch.zeros(2, requires_grad=True)
    gates = hard_concrete.sample(log_alpha, ends)
    gates.sum().backward()
    assert gates.tolist() == [0.0, 1.0]
    assert log_alpha.grad.isfinite().all()


def test_noise_is_uniform_over_steps():
    """The Kolmogorov-Smirnov distance of n uniform draws exceeds 1.95 / sqrt(n) with probability 0.001."""
    axes = (Axis.INTERMEDIATE,)
    rows = [keyed_uniform(SOURCE, axes, key=(0, step, 0))[Axis.INTERMEDIATE] for step in range(200)]
    draws = torch.cat(rows).flatten()
    ordered = draws.double().sort().values
    expected = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
    assert float((ordered - expected).abs().max()) < 1.95 / math.sqrt(len(ordered))


def test_noise_of_one_gate_is_uncorrelated_between_consecutive_steps():
    """A correlation of n independent pairs exceeds 3.3 / sqrt(n) with probability 0.001."""
    steps = 2000
    draws = torch.stack(
        [keyed_uniform(SOURCE, (Axis.LAYERS,), key=(0, step, 0))[Axis.LAYERS] for step in range(steps)]
    )
    for gate in range(SOURCE.layers):
        pairs = torch.stack([draws[:-1, gate], draws[1:, gate]])
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 3.3 / math.sqrt(steps)


def test_gates_start_open_in_float32_one_per_unit_of_each_axis():
    gates = Gates(SOURCE, AXES)
    assert {name: tuple(row.shape) for name, row in gates.named_parameters()} == {
        "layers": (4,),
        "hidden": (48,),
        "kv_heads": (4, 4),
        "query_heads": (4, 4, 3),
        "intermediate": (4, 40),
    }
    assert all(row.dtype == torch.float32 for row in gates.parameters())
    assert all((row == torch.tensor(LOG_ALPHA_LIMIT)).all() for row in gates.parameters())


def test_gates_have_parameters_for_the_axes_asked_for_only():
    gates = Gates(SOURCE, (Axis.LAYERS, Axis.HIDDEN))
    assert dict(gates.named_parameters()).keys() == {"layers", "hidden"}
    assert gates().values.keys() == gates().sparsity.keys() == {Axis.LAYERS, Axis.HIDDEN}


def test_sampled_gates_are_the_equation_and_pass_gradients_to_log_alpha():
    gates = random_log_alpha()
    uniform = keyed_uniform(SOURCE, AXES, key=KEY)
    state = gates(uniform)
    for axis in AXES:
        row = gates.get_parameter(axis.value)
        assert torch.equal(state.values[axis], hard_concrete.sample(row, uniform[axis]))
        assert torch.autograd.grad(state.values[axis].sum(), row, retain_graph=True)[0].any()
        assert torch.autograd.grad(state.sparsity[axis].sum(), row, retain_graph=True)[0].any()


def test_sparsity_has_one_entry_per_row_and_ignores_the_noise():
    gates = random_log_alpha()
    drawn, still = gates(keyed_uniform(SOURCE, AXES, key=KEY)).sparsity, gates().sparsity
    for axis in AXES:
        assert drawn[axis].shape == SOURCE.gate_shape(axis)[:-1]
        assert torch.equal(drawn[axis], still[axis])
        kept = hard_concrete.keep_probability(gates.get_parameter(axis.value))
        torch.testing.assert_close(drawn[axis], 1 - kept.mean(-1))


def test_gates_at_a_target_keep_exactly_its_units_in_every_row():
    values = random_log_alpha()(target=TARGET).values
    for axis in AXES:
        kept = (values[axis] != 0).sum(-1)
        assert (kept == TARGET.units(axis)).all(), axis


def test_gates_at_a_target_keep_its_units_even_where_all_are_equal():
    """As at the start of a run: ties are broken by order."""
    values = Gates(SOURCE, AXES)(target=TARGET).values
    for axis in AXES:
        assert ((values[axis] != 0).sum(-1) == TARGET.units(axis)).all()
        assert (values[axis][..., : TARGET.units(axis)] != 0).all()


def test_gates_at_a_target_keep_the_largest_of_each_row():
    gates = random_log_alpha(spread=0.5)
    values = gates(target=TARGET).values
    for axis in AXES:
        log_alpha = gates.get_parameter(axis.value)
        least_kept = log_alpha.masked_fill(values[axis] == 0, math.inf).amin(-1)
        most_dropped = log_alpha.masked_fill(values[axis] != 0, -math.inf).amax(-1)
        assert (least_kept >= most_dropped).all()


def test_gates_as_they_are_now_keep_the_expected_number_of_each_row():
    gates = random_log_alpha()
    values = gates().values
    for axis in AXES:
        expected = hard_concrete.keep_probability(gates.get_parameter(axis.value)).sum(-1).round()
        assert torch.equal((values[axis] != 0).sum(-1), expected.clamp(min=1).to(torch.int64))


def test_gates_without_noise_are_soft_where_kept():
    """0.8 times log alpha over the temperature, through a sigmoid."""
    log_alpha = {Axis.LAYERS: torch.tensor([3.0, -9.0, 1.0, 0.0])}
    target = ModelShape(layers=3, hidden=48, query_heads=12, kv_heads=4, intermediate=40)
    values = LAGRANGIAN.standing(log_alpha, target)[Axis.LAYERS]
    expected = torch.sigmoid(0.8 * torch.tensor([3.0, -9.0, 1.0, 0.0]) / (2 / 3))
    expected[1] = 0
    torch.testing.assert_close(values, expected)


def test_project_returns_every_gate_to_its_limits_and_leaves_the_others():
    gates = random_log_alpha()
    with torch.no_grad():
        gates.get_parameter("layers").copy_(torch.tensor([-9.0, 9.0, 0.5, -LOG_ALPHA_LIMIT]))
    before = gates.get_parameter("hidden").detach().clone()
    gates.project()
    torch.testing.assert_close(
        gates.get_parameter("layers").detach(),
        torch.tensor([-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT, 0.5, -LOG_ALPHA_LIMIT]),
        rtol=0,
        atol=0,
    )
    inside = before.abs() <= LOG_ALPHA_LIMIT
    assert torch.equal(gates.get_parameter("hidden").detach()[inside], before[inside])


@pytest.mark.parametrize("start", [-LOG_ALPHA_LIMIT - 1, -LOG_ALPHA_LIMIT, 0.0, LOG_ALPHA_LIMIT])
def test_gates_have_a_gradient_at_their_limits_where_they_start(start):
    """With a plain clamp they would have none, and no gate would ever close."""
    gates = Gates(SOURCE, AXES, initial_log_alpha=start)
    sum(lost.sum() for lost in gates().sparsity.values()).backward()
    assert all((row.grad < 0).all() for row in gates.parameters())


def test_multipliers_start_at_zero_as_float32_vectors():
    """Vectors and not single numbers: sharded strategies cannot split a parameter without dimensions."""
    multipliers = Multipliers(AXES)
    assert {name: tuple(row.shape) for name, row in multipliers.named_parameters()} == {
        "first": (5,),
        "second": (5,),
    }
    assert all(not row.any() and row.dtype == torch.float32 for row in multipliers.parameters())


def test_multipliers_sum_the_penalty_of_every_axis():
    multipliers = Multipliers((Axis.LAYERS, Axis.KV_HEADS))
    with torch.no_grad():
        multipliers.first.copy_(torch.tensor([2.0, 3.0]))
        multipliers.second.copy_(torch.tensor([5.0, 7.0]))
    sparsity = {Axis.KV_HEADS: torch.tensor([0.5, 0.1]), Axis.LAYERS: torch.tensor(0.4)}
    penalty = multipliers(sparsity, {Axis.LAYERS: 0.3, Axis.KV_HEADS: 0.2})
    layers = 2 * 0.1 + 5 * 0.1**2
    kv_heads = ((3 * 0.3 + 7 * 0.3**2) + (3 * -0.1 + 7 * 0.1**2)) / 2
    torch.testing.assert_close(penalty.total.item(), layers + kv_heads, rtol=1e-6, atol=0)
    assert penalty.multipliers.tolist() == [[2.0, 3.0], [5.0, 7.0]]


def test_multipliers_ascend_on_the_excess_and_gates_descend():
    """Too large a model moves its multipliers, which then push log alpha down."""
    gates, multipliers = Gates(SOURCE, (Axis.LAYERS,)), Multipliers((Axis.LAYERS,))
    optimizer = torch.optim.SGD(
        [
            {"params": gates.parameters()},
            {"params": multipliers.parameters(), "maximize": True},
        ],
        lr=1.0,
    )
    for _ in range(2):
        optimizer.zero_grad()
        multipliers(gates().sparsity, {Axis.LAYERS: 0.5}).total.backward()
        optimizer.step()
    assert multipliers.first.item() < 0  # the sparsity is below its target
    assert (gates.get_parameter("layers") < LOG_ALPHA_LIMIT).all()
