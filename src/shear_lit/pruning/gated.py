"""The three stock layers as they compute under gates: same arithmetic, gate values folded into their weights.

Folding keeps the cost of gates independent of the number of tokens, and runs the very weights that a cut would keep.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def scaled(
    weight: Float[Tensor, "out in"], rows: Float[Tensor, "out"] | None, columns: Float[Tensor, "in"] | None
) -> Float[Tensor, "out in"]:
    """``weight`` with its rows and columns multiplied by gates, in the wider of the dtypes."""
    if rows is not None:
        weight = weight * rows[:, None]
    return weight if columns is None else weight * columns


class _GatedLinear(torch.autograd.Function):
    """A linear layer with scaled weights that stores neither the scaled weight nor a scaled activation."""

    @staticmethod
    def forward(ctx, x, weight, bias, rows, columns):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight, bias, rows, columns)
        scaled_bias = bias if bias is None or rows is None else (bias * rows)
        return functional.linear(
            x,
            scaled(weight, rows, columns).to(x.dtype),
            None if scaled_bias is None else scaled_bias.to(x.dtype),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, bias, rows, columns = ctx.saved_tensors
        grad_x = grad @ scaled(weight, rows, columns).to(grad.dtype) if ctx.needs_input_grad[0] else None
        flat_grad = grad.reshape(-1, grad.shape[-1])
        grad_scaled = flat_grad.mT @ x.reshape(-1, x.shape[-1])
        grad_rows = grad_columns = grad_bias = None
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            # The gradient of gate i is the sum of (gradient * weight) over what it multiplies.
            wide = torch.promote_types(weight.dtype, torch.float32)
            products = (
                grad_scaled.to(wide).mul_(weight) if wide != grad_scaled.dtype else grad_scaled * weight
            )
            if ctx.needs_input_grad[3]:
                grad_rows = products.sum(1) if columns is None else products @ columns.to(wide)
            if ctx.needs_input_grad[4]:
                grad_columns = products.sum(0) if rows is None else rows.to(wide) @ products
        if bias is not None:
            grad_bias = flat_grad.sum(0)
            if rows is not None:
                if grad_rows is not None:
                    grad_rows = grad_rows + grad_bias * bias
                grad_bias = grad_bias * rows
            grad_bias = grad_bias.to(bias.dtype)
        grad_weight = scaled(grad_scaled, rows, columns).to(weight.dtype)
        return (
            grad_x,
            grad_weight,
            grad_bias,
            None if grad_rows is None else grad_rows.to(rows.dtype),
            None if grad_columns is None else grad_columns.to(columns.dtype),
        )


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
    norm: nn.Module, epsilon: str, x: Float[Tensor, "*batch hidden"], gates: Float[Tensor, "hidden"]
) -> Float[Tensor, "*batch hidden"]:
    """A stock RMS norm that sees only the units whose gate is not exactly 0, and carries their gates.

    The stock arithmetic runs with other numbers: with k of d units kept, the mean over k is d/k times the
    mean over d (the others are exactly 0), which is the same as the constant times k/d and the weight times
    sqrt(k/d). No shape depends on k, and nothing waits for it.
    """
    kept_fraction = (gates != 0).sum().clamp(min=1).to(gates.dtype) / gates.numel()
    stand_in = type(norm).__new__(type(norm))
    stand_in.__dict__.update({**norm.__dict__, "_parameters": {}})
    weight = norm.get_parameter("weight")
    stand_in.weight = (weight * (gates * kept_fraction.sqrt())).to(weight.dtype)
    setattr(stand_in, epsilon, getattr(norm, epsilon) * kept_fraction)
    return type(norm).forward(stand_in, x)
