"""The three layers under gates against plain expressions, values and gradients."""

import itertools

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from shear_lit.models.family import Norm, NormKind
from shear_lit.pruning import gated as gated_module
from shear_lit.pruning.gated import NormGates, gated_embedding, gated_linear, gated_norm, norm_gates, scaled
from tests.toy_models import float64_norm

RMS = Norm(module="norm")
ONE_PLUS = Norm(module="norm", epsilon="eps", kind=NormKind.ONE_PLUS_RMS)
LAYER = Norm(module="norm", epsilon="eps", kind=NormKind.LAYER)
NAMES = ("x", "weight", "bias", "rows", "columns")
PRESENT = [
    {"bias", *gates} if bias else set(gates)
    for bias in (True, False)
    for gates in (("rows",), ("columns",), ("rows", "columns"))
]


def linear_inputs(present: set[str], frozen: set[str] = frozenset()) -> list[torch.Tensor | None]:
    """x of shape [2, 3, 4] and a weight of shape [5, 4]; gates with an exact 0 and an exact 1."""
    torch.manual_seed(0)
    tensors = {
        "x": torch.randn(2, 3, 4, dtype=torch.float64),
        "weight": torch.randn(5, 4, dtype=torch.float64),
        "bias": torch.randn(5, dtype=torch.float64),
        "rows": torch.tensor([0.0, 1.0, 0.3, 0.7, 0.2], dtype=torch.float64),
        "columns": torch.tensor([0.4, 0.0, 1.0, 0.6], dtype=torch.float64),
    }
    given = {"x", "weight", *present}
    return [tensors[name].requires_grad_(name not in frozen) if name in given else None for name in NAMES]


def plain(x, weight, bias, rows, columns):
    """The same layer as autograd sees it."""
    if columns is not None:
        x = x * columns
    y = nn.functional.linear(x, weight, bias)
    return y if rows is None else y * rows


@pytest.mark.parametrize("present", PRESENT, ids=lambda present: "+".join(sorted(present)))
def test_gated_linear_and_its_gradients_equal_the_plain_expression(present):
    inputs = linear_inputs(present)
    given = [tensor for tensor in inputs if tensor is not None]
    ours, expected = gated_linear(*inputs), plain(*inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(ours)
    for left, right in zip(
        torch.autograd.grad((ours * weights).sum(), given),
        torch.autograd.grad((expected * weights).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


FROZEN = [
    set(),
    *({name} for name in NAMES),
    {"x", "weight", "bias"},
    {"rows", "columns"},
    {"weight", "rows"},
]


@pytest.mark.parametrize(
    ("present", "frozen"),
    list(itertools.product(PRESENT, FROZEN)),
    ids=lambda names: "+".join(sorted(names)) or "none",
)
def test_gated_linear_passes_gradcheck_whatever_is_frozen(present, frozen):
    assert torch.autograd.gradcheck(gated_linear, linear_inputs(present, frozen), check_batched_grad=False)


@pytest.mark.parametrize("broken", range(len(NAMES)), ids=NAMES)
def test_gradcheck_sees_every_gradient_that_is_wrong(broken, monkeypatch):
    """The twin."""
    right = gated_module._linear_gradients

    def wrong(*arguments):
        found = list(right(*arguments))
        found[broken] = found[broken] * 1.01
        return tuple(found)

    monkeypatch.setattr(gated_module, "_linear_gradients", wrong)
    inputs = linear_inputs({"bias", "rows", "columns"})
    assert not torch.autograd.gradcheck(gated_linear, inputs, raise_exception=False)


def test_gated_linear_gives_no_gradient_to_what_is_frozen():
    inputs = linear_inputs({"bias", "rows", "columns"}, frozen={"weight", "rows"})
    gated_linear(*inputs).sum().backward()
    with_gradient = {name for name, tensor in zip(NAMES, inputs, strict=True) if tensor.grad is not None}
    assert with_gradient == {"x", "bias", "columns"}


def test_gated_linear_leaves_its_inputs_as_they_were():
    """Products are scaled in place: never the weight, nor the gradient that came in."""
    inputs = linear_inputs({"bias", "rows", "columns"})
    before = [tensor.detach().clone() for tensor in inputs]
    y = gated_linear(*inputs)
    arriving = torch.randn_like(y)
    kept = arriving.clone()
    y.backward(arriving)
    assert torch.equal(arriving, kept)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


def test_scaled_of_a_bfloat16_weight_is_rounded_once():
    """All is multiplied in float32, before the rounding."""
    weight = torch.randn(5, 4).bfloat16()
    for rows, columns in itertools.product((None, torch.rand(5)), (None, torch.rand(4))):
        expected = weight.float()
        for gates in (None if rows is None else rows[:, None], columns):
            expected = expected if gates is None else expected * gates
        for dtype in (torch.float32, torch.bfloat16):
            product = scaled(weight, rows, columns, dtype)
            assert product.dtype == dtype
            torch.testing.assert_close(product, expected.to(dtype), rtol=0, atol=0)


def gates_of(values: torch.Tensor) -> NormGates:
    return norm_gates(values, values != 0)


def test_gated_norm_equals_the_norm_of_the_kept_units(monkeypatch):
    monkeypatch.setattr(LlamaRMSNorm, "forward", float64_norm)
    torch.manual_seed(0)
    gates = torch.tensor([1.0, 0.0, 0.5, 0.2, 0.0, 1.0], dtype=torch.float64)
    kept = gates != 0
    stream = torch.randn(2, 3, 6, dtype=torch.float64) * gates
    norm, small = LlamaRMSNorm(6, eps=0.1).double(), LlamaRMSNorm(4, eps=0.1).double()
    nn.init.normal_(norm.weight)
    small.weight.data = (norm.weight * gates)[kept]
    ours = gated_norm(norm, RMS, stream, gates_of(gates))
    torch.testing.assert_close(ours[..., kept], small(stream[..., kept]), rtol=1e-12, atol=1e-12)
    assert not ours[..., ~kept].any()
    assert norm.variance_epsilon == 0.1
    assert "forward" not in norm.__dict__ and dict(norm.named_parameters()).keys() == {"weight"}


def test_gated_norm_passes_gradcheck(monkeypatch):
    monkeypatch.setattr(LlamaRMSNorm, "forward", float64_norm)
    norm = LlamaRMSNorm(4, eps=0.1).double()
    gates = torch.tensor([1.0, 0.3, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
    stream = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def run(stream, gates):
        return gated_norm(norm, RMS, stream, gates_of(gates))

    assert torch.autograd.gradcheck(run, (stream, gates))


def test_gated_norm_gives_its_weight_the_gradient_of_the_plain_expression():
    norm = LlamaRMSNorm(4)
    gates, stream = torch.tensor([1.0, 0.3, 0.5, 0.2]), torch.randn(3, 4)
    gated_norm(norm, RMS, stream, gates_of(gates)).sum().backward()
    expected = (nn.functional.rms_norm(stream, (4,), eps=1e-6) * gates).sum(0)
    torch.testing.assert_close(norm.weight.grad, expected)


def test_stream_without_any_open_gate_is_finite():
    """At least one unit is counted: nothing is divided by 0."""
    prepared = gates_of(torch.zeros(4))
    assert prepared.kept_fraction == 0.25
    normed = gated_norm(LlamaRMSNorm(4), RMS, torch.zeros(3, 4), prepared)
    assert torch.equal(normed, torch.zeros(3, 4))


def test_gated_embedding_and_its_gradients_equal_the_plain_product():
    torch.manual_seed(0)
    embedding = nn.Embedding(7, 4, dtype=torch.float64)
    gates = torch.tensor([1.0, 0.0, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[1, 2, 1], [6, 0, 3]])
    ours, expected = gated_embedding(embedding, ids, gates), embedding(ids) * gates
    assert torch.equal(ours, expected)
    arriving, leaves = torch.randn_like(ours), (embedding.weight, gates)
    for left, right in zip(
        torch.autograd.grad(ours, leaves, arriving),
        torch.autograd.grad(expected, leaves, arriving),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-14, atol=1e-14)


def kept_and_gates() -> tuple[torch.Tensor, torch.Tensor]:
    gates = torch.tensor([1.0, 0.0, 0.5, 0.2, 0.0, 1.0], dtype=torch.float64)
    return gates != 0, gates


def test_gated_norm_that_adds_one_equals_that_of_the_kept_units(float64_norms):
    torch.manual_seed(0)
    kept, gates = kept_and_gates()
    stream = torch.randn(2, 3, 6, dtype=torch.float64) * gates
    norm, small = Gemma3RMSNorm(6, eps=0.1).double(), Gemma3RMSNorm(4, eps=0.1).double()
    nn.init.normal_(norm.weight)
    small.weight.data = ((1 + norm.weight) * gates - 1)[kept]
    ours = gated_norm(norm, ONE_PLUS, stream, gates_of(gates))
    torch.testing.assert_close(ours[..., kept], small(stream[..., kept]), rtol=1e-12, atol=1e-12)
    assert not ours[..., ~kept].any()


def layer_norm(size: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(size, eps=0.1).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def test_gated_layer_norm_equals_that_of_the_kept_units():
    """Their own mean and variance; the bias carries the gate as the weight does."""
    torch.manual_seed(0)
    kept, gates = kept_and_gates()
    stream = (torch.randn(2, 3, 6, dtype=torch.float64) + 2) * gates
    norm, small = layer_norm(6), layer_norm(4)
    small.weight.data, small.bias.data = (norm.weight * gates)[kept], (norm.bias * gates)[kept]
    ours = gated_norm(norm, LAYER, stream, gates_of(gates))
    torch.testing.assert_close(ours[..., kept], small(stream[..., kept]), rtol=1e-12, atol=1e-12)
    assert not ours[..., ~kept].any()
    broken = norm_gates(gates, torch.ones_like(kept))  # the twin: a mean and a variance over all units
    assert (gated_norm(norm, LAYER, stream, broken) - ours).abs().max() > 0.01


def layer_norm_inputs(kept_fraction: float) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    tensors = (torch.randn(3, 5) + 0.5, torch.randn(5), torch.randn(5))
    leaves = (tensor.double().requires_grad_() for tensor in tensors)
    return *leaves, torch.tensor(kept_fraction, dtype=torch.float64)


@pytest.mark.parametrize("kept_fraction", [1.0, 0.6])
def test_gated_layer_norm_passes_gradcheck(kept_fraction):
    def run(*inputs):
        return gated_module._GatedLayerNorm.apply(*inputs, 0.1)

    assert torch.autograd.gradcheck(run, layer_norm_inputs(kept_fraction), check_batched_grad=False)


def test_gradcheck_sees_sums_over_all_units_in_the_gradient_of_a_gated_layer_norm(monkeypatch):
    """The twin: what the stock kernel gives."""
    monkeypatch.setattr(torch.Tensor, "addcmul_", lambda self, *factors: self)

    def run(*inputs):
        return gated_module._GatedLayerNorm.apply(*inputs, 0.1)

    inputs = layer_norm_inputs(0.6)
    assert not torch.autograd.gradcheck(run, inputs, check_batched_grad=False, raise_exception=False)


def test_gated_layer_norm_gives_gates_weight_and_bias_the_gradients_of_the_plain_expression():
    torch.manual_seed(0)
    norm = layer_norm(4)
    gates = torch.tensor([1.0, 0.3, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
    stream = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    leaves = (stream, gates, norm.weight, norm.bias)
    ours, expected = gated_norm(norm, LAYER, stream, gates_of(gates)), norm(stream) * gates
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    arriving = torch.randn_like(ours)
    for left, right in zip(
        torch.autograd.grad(ours, leaves, arriving),
        torch.autograd.grad(expected, leaves, arriving),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_gated_layer_norm_of_a_bfloat16_stream_is_rounded_once():
    """The mean is taken off in float32: in bfloat16 little would be left of a stream far from 0."""
    torch.manual_seed(0)
    norm, gates = nn.LayerNorm(64).bfloat16(), torch.rand(64).clamp(min=0.3)
    stream = (torch.randn(5, 64) + 30).bfloat16()
    ours = gated_norm(norm, LAYER, stream, gates_of(gates))
    exact = nn.functional.layer_norm(stream.float(), (64,)) * gates
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), exact, rtol=2**-8, atol=1e-6)
