"""How far residual streams are apart."""

import torch
from jaxtyping import Float
from torch import Tensor


def stream_distance(
    ours: Float[Tensor, "*rows channels"],
    theirs: Float[Tensor, "*rows channels"],
    gates: Float[Tensor, "channels"] | None = None,
) -> Float[Tensor, "*rows"]:
    """The squared distance of each row from the other stream's, over the squared length of that; channels by ``gates``.

    A stream of zeros has the distance 1, whatever the size of the other: so the few tokens whose streams are thousands
    of times longer count like all others.
    """
    wide = torch.promote_types(ours.dtype, torch.float32)
    theirs = theirs.to(wide)
    apart, length = (ours.to(wide) - theirs).square(), theirs.square()
    if gates is not None:
        apart, length = apart * gates, length * gates
    return apart.sum(-1) / length.sum(-1).clamp(min=torch.finfo(wide).eps)
