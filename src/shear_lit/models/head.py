"""The output head of a stock model, as the place where losses are computed instead of logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from shear_lit.theory.losses import Head

_CAP = "final_logit_softcapping"


@contextmanager
def head_computing(model: Any, compute: Callable[[Tensor, Head], Tensor]) -> Iterator[None]:
    """Within the ``with``, the model puts out what ``compute`` makes of the last hidden states, in place of logits.

    It runs where the head's own forward would: a sharded strategy has gathered the head's weight for it, once.
    """
    module, config = model.get_output_embeddings(), model.config
    cap = getattr(config, _CAP, None)

    def forward(hidden: Tensor) -> Tensor:
        return compute(hidden, Head(module.weight, module.bias, cap))

    module.forward = forward
    if cap is not None:
        setattr(config, _CAP, None)
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if cap is not None:
            setattr(config, _CAP, cap)
