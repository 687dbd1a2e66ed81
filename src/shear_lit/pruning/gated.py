"""The three stock layers as they compute under gates: same arithmetic, gate values folded into their weights.

Folding keeps the cost of gates independent of the number of tokens, and runs the very weights that a cut would keep.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class StreamGates(NamedTuple):
    """The gates of the residual stream, with what every norm over it needs: computed once for all of them."""

    values: Float[Tensor, "hidden"]
    """The gates."""
    norm_scale: Float[Tensor, "hidden"]
    """What multiplies the weight of a norm."""
    kept_fraction: Float[Tensor, ""]
    """The fraction of gates that are not exactly 0; what multiplies the constant of a norm."""


def stream_gates(values: Float[Tensor, "hidden"]) -> StreamGates:
    """Prepare the gates of the residual stream. No shape depends on their values, and nothing waits for them."""
    kept_fraction = (values != 0).sum().clamp(min=1).to(values.dtype) / values.numel()
    return StreamGates(values, values * kept_fraction.sqrt(), kept_fraction)


def scaled(
    weight: Float[Tensor, "out in"], rows: Float[Tensor, "out"] | None, columns: Float[Tensor, "in"] | None
) -> Float[Tensor, "out in"]:
    """``weight`` with its rows and columns multiplied by gates, in the wider of the dtypes."""
    if rows is None:
        return weight if columns is None else weight * columns
    product = weight * rows[:, None]
    # In place: the product is new, and every gate has the same dtype.
    return product if columns is None else product.mul_(columns)


class _GatedLinear(torch.autograd.Function):
    """A linear layer with scaled weights that stores neither the scaled weight nor a scaled activation."""

    @staticmethod
    def forward(ctx, x, weight, bias, rows, columns):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight, bias, rows, columns)
        scaled_weight = scaled(weight, rows, columns).to(x.dtype)
        if bias is not None:
            bias = (bias if rows is None else bias * rows).to(x.dtype)
        return functional.linear(x, scaled_weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        # The dtypes were settled in the forward pass: a backward inside autocast must not narrow the gates' sums.
        with torch.autocast(grad.device.type, enabled=False):
            return _linear_gradients(grad, ctx.saved_tensors, ctx.needs_input_grad)


def _linear_gradients(
    grad: Tensor, saved: tuple[Any, ...], needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of x, weight, bias, rows and columns, where they are needed; those of gates in float32 or wider."""
    x, weight, bias, rows, columns = saved
    needs_x, needs_weight, needs_bias, needs_rows, needs_columns = needed
    wide = torch.promote_types(weight.dtype, torch.float32)
    grad_x = grad @ scaled(weight, rows, columns).to(grad.dtype) if needs_x else None
    grad = grad.reshape(-1, grad.shape[-1])
    grad_weight = grad_bias = grad_rows = grad_columns = None
    if needs_weight or needs_rows or needs_columns:
        grad_weight = (grad.mT @ x.reshape(-1, x.shape[-1])).to(wide)
        if needs_rows or needs_columns:
            # The gradient of a gate is the sum of (gradient * weight) over what it multiplies.
            products = grad_weight * weight
            if needs_rows:
                grad_rows = products.sum(1) if columns is None else products @ columns.to(wide)
            if needs_columns:
                grad_columns = products.sum(0) if rows is None else rows.to(wide) @ products
        grad_weight = _scaled_in_place(grad_weight, rows, columns).to(weight.dtype) if needs_weight else None
    if bias is not None and (needs_bias or needs_rows):
        grad_bias = grad.sum(0, dtype=wide)
        if needs_rows:
            grad_rows = grad_rows + grad_bias * bias
        grad_bias = (grad_bias if rows is None else grad_bias * rows).to(bias.dtype)
    return grad_x, grad_weight, grad_bias, _like(grad_rows, rows), _like(grad_columns, columns)


def _scaled_in_place(weight: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    if rows is not None:
        weight.mul_(rows[:, None])
    return weight if columns is None else weight.mul_(columns)


def _like(grad: Tensor | None, gates: Tensor | None) -> Tensor | None:
    return None if grad is None or gates is None else grad.to(gates.dtype)


def gated_linear(
    x: Float[Tensor, "*batch in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, "out"] | None,
    rows: Float[Tensor, "out"] | None,
    columns: Float[Tensor, "in"] | None,
) -> Float[Tensor, "*batch out"]:
    """A linear layer whose rows (outputs, bias included) and columns (inputs) are multiplied by gates."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _GatedLinear.apply(x, weight, bias, rows, columns)


def gated_norm(
    norm: nn.Module, epsilon: str, x: Float[Tensor, "*batch hidden"], gates: StreamGates
) -> Float[Tensor, "*batch hidden"]:
    """A stock RMS norm that sees only the units whose gate is not exactly 0, and carries their gates.

    The stock arithmetic runs with other numbers: with k of d units kept, the mean over k is d/k times the
    mean over d (the others are exactly 0), which is the same as the constant times k/d and the weight times
    sqrt(k/d).
    """
    stand_in = type(norm).__new__(type(norm))
    stand_in.__dict__.update({**norm.__dict__, "_parameters": {}})
    weight = norm.get_parameter("weight")
    stand_in.weight = (weight * gates.norm_scale).to(weight.dtype)
    setattr(stand_in, epsilon, getattr(norm, epsilon) * gates.kept_fraction)
    return type(norm).forward(stand_in, x)


def gated_embedding(
    embedding: nn.Module, ids: Int[Tensor, "*batch"], gates: StreamGates
) -> Float[Tensor, "*batch hidden"]:
    """The start of a gated residual stream. Backward looks the rows up again, so they are not stored."""

    def embed(ids: Tensor, values: Tensor) -> Tensor:
        rows = type(embedding).forward(embedding, ids)
        return (rows * values).to(rows.dtype)

    return checkpoint(embed, ids, gates.values, use_reentrant=False, preserve_rng_state=False)
