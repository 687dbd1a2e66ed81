"""A cut that has shown that it computes what the gated model does, before anybody gets it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from shear_lit.models.huggingface import build_model
from shear_lit.models.registry import carved_config, family_of
from shear_lit.models.verification import (
    GATED_TOLERANCE,
    VerificationError,
    check_tokens,
    logits_of,
    relative_difference,
)
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.pruning.constraints import GateValues


@dataclass(frozen=True, kw_only=True)
class VerifiedCut:
    """The model that is left."""

    config: PretrainedConfig
    """Its config."""
    tensors: Mapping[str, Tensor]
    """Its parameters."""
    difference: float
    """Largest difference of its logits and the gated ones in float32, as a fraction of the largest of those."""


def verified_cut(tensors: Mapping[str, Tensor], config: PretrainedConfig, values: GateValues) -> VerifiedCut:
    """The model of ``config`` and ``tensors`` carved at the gates ``values``.

    Raises:
        VerificationError: gated and carved logits differ by more than the tolerance.
    """
    family, tokens = family_of(config), check_tokens(config.vocab_size)
    expected = _gated_logits(tensors, config, values, tokens)
    carved, kept = carve(tensors, family, values), kept_units(values, family.shape)
    small = carved_config(config, kept.shape, kept_layers=kept.layers.tolist())
    model = build_model(small, carved, dtype=torch.float32)
    difference = relative_difference(logits_of(model, tokens), expected)
    if not difference <= GATED_TOLERANCE:  # nan is no success
        raise VerificationError(
            f"gated against carved logits in float32: max |difference| is {difference:.3g} of the largest gated logit, "
            f"and must be at most {GATED_TOLERANCE:g}. Nothing was kept. If the losses of the run were finite, this is "
            f"a fault of the program: please report it."
        )
    return VerifiedCut(config=small, tensors=carved, difference=difference)


def _gated_logits(
    tensors: Mapping[str, Tensor], config: PretrainedConfig, values: GateValues, tokens: Tensor
) -> Tensor:
    model = build_model(config, tensors, dtype=torch.float32)
    gates = attach(model, family_of(config))
    gates.set(values)
    logits = logits_of(model, tokens)
    gates.detach()  # or its cycles of references would keep the source's weights until they are collected
    return logits
