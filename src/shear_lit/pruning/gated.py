"""The stock layers as they compute under gates: same arithmetic, gate values folded into their weights.

Folding keeps the cost of gates independent of the number of tokens, and runs the very weights that a cut would keep.
"""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from shear_lit.models.family import Norm, NormKind


class NormGates(NamedTuple):
    """The gates of the units that a norm normalises over, with what it needs to see only those that are kept."""

    values: Float[Tensor, "*rows units"]
    """The gates that it carries; those of the residual stream are what it reads from the embedding, too."""
    is_open: Bool[Tensor, "*rows units"]
    """Where the gate of the unit is not exactly 0."""
    weight_scale: Float[Tensor, "*rows units"]
    """What multiplies the weight of the norm."""
    kept_fraction: Float[Tensor, "*rows"]
    """The fraction of units whose gate is not exactly 0; what multiplies the constant of the norm.

    Without a dimension for a single norm, so that it widens nothing that it meets.
    """


def norm_gates(values: Float[Tensor, "*rows units"], is_open: Bool[Tensor, "*rows units"]) -> NormGates:
    """Prepare the gates of norms. No shape depends on their values, and nothing waits for them."""
    kept_fraction = is_open.sum(-1).clamp(min=1).to(values.dtype) / values.shape[-1]
    return NormGates(values, is_open, values * kept_fraction.sqrt()[..., None], kept_fraction)


def scaled(
    weight: Float[Tensor, "out in"],
    rows: Float[Tensor, "out"] | None,
    columns: Float[Tensor, "in"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "out in"]:
    """``weight`` with its rows and columns multiplied by gates in the wider of the dtypes, and rounded once."""
    factors = [part for part in (None if rows is None else rows[:, None], columns) if part is not None]
    if not factors:
        return weight.to(dtype)
    *first, last = factors
    product = weight * first[0] if first else weight
    # Rounded where it is written: another pass over a weight costs as much as the product.
    out = product if first and product.dtype == dtype else torch.empty_like(weight, dtype=dtype)
    return torch.mul(product, last, out=out)


class _GatedLinear(torch.autograd.Function):
    """A linear layer with scaled weights that stores neither the scaled weight nor a scaled activation."""

    @staticmethod
    def forward(ctx, x, weight, bias, rows, columns):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight, bias, rows, columns)
        scaled_weight = scaled(weight, rows, columns, x.dtype)
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
    grad_x = grad @ scaled(weight, rows, columns, grad.dtype) if needs_x else None
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
    norm: nn.Module, declared: Norm, x: Float[Tensor, "*batch units"], gates: NormGates
) -> Float[Tensor, "*batch units"]:
    """A stock norm that sees only the units whose gate is not exactly 0, and carries its gates.

    What it reads of the other units must be 0.
    """
    if declared.kind is NormKind.LAYER:
        return _gated_layer_norm(cast(nn.LayerNorm, norm), x, gates)
    return _gated_rms_norm(norm, declared, x, gates)


def _gated_rms_norm(norm: nn.Module, declared: Norm, x: Tensor, gates: NormGates) -> Tensor:
    """The stock arithmetic with other numbers.

    With k of d units kept, the mean over k is d/k times the mean over d (the others are exactly 0), which is the
    same as the constant times k/d and the weight times sqrt(k/d).
    """
    stand_in = type(norm).__new__(type(norm))
    stand_in.__dict__.update({**norm.__dict__, "_parameters": {}})
    weight = norm.get_parameter("weight")
    if declared.kind is NormKind.ONE_PLUS_RMS:
        # (1 + w) s - 1, exactly w where s is 1. It stays wide: near -1 there is little left of a narrow number.
        stand_in.weight = weight * gates.weight_scale + (gates.weight_scale - 1)
    else:
        stand_in.weight = (weight * gates.weight_scale).to(weight.dtype)
    setattr(stand_in, declared.epsilon, getattr(norm, declared.epsilon) * gates.kept_fraction)
    return type(norm).forward(stand_in, x)


class _GatedLayerNorm(torch.autograd.Function):
    """A layer norm over the kept units alone, which stores no more than the stock one: what it normalises.

    The others are exactly 0. With the fraction f of units kept, and m and v the mean and the variance over all, those
    over the kept ones are m/f and (v - m (m/f - m)) / f. Where a unit is not kept, its weight and its bias are 0.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, kept_fraction, epsilon):  # type: ignore[no-untyped-def]
        wide = x.to(weight.dtype)
        variance, mean = torch.var_mean(wide, -1, correction=0, keepdim=True)
        kept_mean = mean / kept_fraction
        kept_variance = (variance - mean * (kept_mean - mean)) / kept_fraction
        scale = torch.rsqrt(kept_variance.clamp(min=0) + epsilon)
        ctx.save_for_backward(x, weight, bias, kept_mean, scale, kept_fraction)
        normed = torch.addcmul(-kept_mean * scale, wide, scale)
        return torch.addcmul(bias, normed, weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, bias, mean, scale, kept_fraction = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            wide, grad = x.to(weight.dtype), grad.to(weight.dtype)
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
                grad, wide, weight.shape, mean, scale, weight, bias, [True, True, True]
            )
            # The stock kernel divides its two sums by the number of all units, and not of the kept ones.
            grad_x = grad_x.div_(kept_fraction).addcmul_(grad * weight, scale * (1 - 1 / kept_fraction))
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None


def _gated_layer_norm(norm: nn.LayerNorm, x: Tensor, gates: NormGates) -> Tensor:
    """The bias carries the gates as the weight does; the kernel takes the number of units into account itself."""
    weight, bias = norm.weight * gates.values, norm.bias * gates.values
    return _GatedLayerNorm.apply(x, weight, bias, gates.kept_fraction, norm.eps)


def gated_embedding(
    embedding: nn.Module, ids: Int[Tensor, "*batch"], gates: Float[Tensor, "hidden"]
) -> Float[Tensor, "*batch hidden"]:
    """The start of a gated residual stream. Backward looks the rows up again, so they are not stored."""

    def embed(ids: Tensor, gates: Tensor) -> Tensor:
        rows = type(embedding).forward(embedding, ids)
        return (rows * gates).to(rows.dtype)

    return checkpoint(embed, ids, gates, use_reentrant=False, preserve_rng_state=False)
