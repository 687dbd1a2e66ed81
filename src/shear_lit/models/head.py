"""The output head of a stock model, as the place where losses are computed instead of logits."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from shear_lit.theory.losses import Head, next_tokens, token_losses

_CAP = "final_logit_softcapping"


@contextmanager
def head_computing(model: Any, compute: Callable[[Tensor, Head], Any]) -> Iterator[None]:
    """Within the ``with``, the model puts out what ``compute`` makes of the last hidden states, in place of logits.

    It runs where the head's own forward would: a sharded strategy has gathered the head's weight for it, once.
    """
    module, config = model.get_output_embeddings(), model.config
    cap = getattr(config, _CAP, None)

    def forward(hidden: Tensor) -> Any:
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


def next_token_losses(model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of the token after each position, in nats, and that token; ``inputs`` with labels, in their layout."""
    given = {name: part for name, part in inputs.items() if name != "labels"}
    targets = next_tokens(inputs["labels"])
    with head_computing(model, lambda hidden, head: token_losses(hidden, head, targets)):
        return model(**given, use_cache=False).logits, targets
