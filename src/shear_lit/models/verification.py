"""Do two models compute the same? Asked of a few fixed tokens before a model is handed to anyone."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from shear_lit.mistakes import Mistake

GATED_TOLERANCE = 1e-4
"""Largest difference between gated and carved logits in float32, as a fraction of the largest gated logit."""

_SEED = 20231006
_TOKENS = 16  # some CPUs multiply bfloat16 matrices a hundred times more slowly than float32


class VerificationError(Mistake):
    """A model that does not compute what it should; it was not kept."""


def check_tokens(vocabulary: int) -> Int64[Tensor, "1 tokens"]:
    """The same few token ids for every model of one vocabulary."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(vocabulary, (1, _TOKENS), generator=generator)


@torch.inference_mode()
def logits_of(model: nn.Module, tokens: Int64[Tensor, "1 tokens"]) -> Float[Tensor, "1 tokens vocabulary"]:
    """The logits of ``model``, as it is when used for inference; its mode is left as it was."""
    training = model.training
    model.eval()
    try:
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
        return logits
    finally:
        model.train(training)


def relative_difference(logits: Float[Tensor, "*shape"], expected: Float[Tensor, "*shape"]) -> float:
    """The largest difference, as a fraction of the largest expected magnitude."""
    return float((logits - expected).abs().max() / expected.abs().max())


def check_same_model(found: nn.Module, expected: nn.Module, vocabulary: int, *, what: str) -> None:
    """Refuse a model whose parameters or logits differ in a single bit from those of another.

    Raises:
        VerificationError: they differ, or the logits are not finite.
    """
    parameters = dict(found.named_parameters())
    for name, parameter in expected.named_parameters():
        if name not in parameters or not torch.equal(parameter, parameters[name]):
            raise VerificationError(
                f"{what}: the parameter {name} is not the one that was written. Nothing was kept. Check the disk, "
                f"and write it again."
            )
    tokens = check_tokens(vocabulary)
    logits, wanted = logits_of(found, tokens), logits_of(expected, tokens)
    if not wanted.isfinite().all():
        raise VerificationError(
            f"{what}: the logits are not finite in {str(wanted.dtype).removeprefix('torch.')}. Nothing was kept. "
            f"Choose --dtype bfloat16 or float32."
        )
    if not torch.equal(logits, wanted):
        largest = float((logits.double() - wanted.double()).abs().max())
        raise VerificationError(
            f"{what}: max |difference| of the logits is {largest:.3g}, and must be 0. Nothing was kept. "
            f"This is a fault of the program or of the installed transformers: please report it."
        )
