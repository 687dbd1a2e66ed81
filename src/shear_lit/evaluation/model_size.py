"""What a model is made of, counted from its config."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from shear_lit.models.huggingface import read_config


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a model is made of."""

    parameters: int
    """All of them."""
    without_embeddings: int
    """Without the embedding and an untied head."""
    flops_per_token: int
    """Of a forward pass: two for each parameter but the embedding's, and the head; none between tokens."""
    weight_bytes: int
    """Memory of the weights in what was computed in."""


def size_of(place: str, dtype: str) -> ModelSize:
    """Count on a model without weights; ``dtype`` is what it computes in.

    Raises:
        SourceError: there is no such model.
    """
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(
            read_config(place, for_training=False), trust_remote_code=False
        )
    embedding, head = empty.get_input_embeddings().weight, empty.get_output_embeddings().weight
    parameters = empty.num_parameters()
    inside = parameters - embedding.numel() - (0 if head is embedding else head.numel())
    return ModelSize(
        parameters=parameters,
        without_embeddings=inside,
        flops_per_token=2 * (inside + head.numel()),
        weight_bytes=parameters * getattr(torch, dtype).itemsize,
    )
