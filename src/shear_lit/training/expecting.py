"""How long a run takes at least, said before it has taken a step: the time of its matrix products on this device."""

import time

import torch
from torch import nn

_PROBE_SECONDS, _MOST_ROWS = 0.05, 1024
_PASSES = 3
"""Forward, and backward to the inputs and to the weights: each two operations for a weight and a token."""


def least_seconds(
    model: nn.Module, embedding: nn.Parameter, *, tokens: int, rows: int, processes: int, dtype: torch.dtype
) -> float:
    """The seconds that the matrix products of a training on so many tokens take, with nothing beside them.

    ``rows`` are the tokens that pass together. What attention does between tokens, a teacher, gates, validations,
    data and what processes tell each other come on top.
    """
    matrices = [part for part in model.parameters() if part.ndim == 2]
    inside = sum(part.numel() for part in matrices if part is not embedding)
    tied = all(part is embedding or part.shape != embedding.shape for part in matrices)
    operations = 2 * _PASSES * (inside + (embedding.numel() if tied else 0)) * tokens
    widest = max(
        part.shape[0] for part in matrices if part.shape != embedding.shape
    )  # no head: it may be huge
    speed = _speed(min(rows, _MOST_ROWS), embedding.shape[1], widest, dtype, embedding.device)
    return operations / (speed * processes)


def _speed(rows: int, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of matrices of these sizes."""
    left = torch.ones(rows, inputs, dtype=dtype, device=device)
    right = torch.ones(inputs, outputs, dtype=dtype, device=device)
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _PROBE_SECONDS or fastest == float("inf"):
        start = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, max(time.perf_counter() - start, 1e-9))
        del product
    return 2 * rows * inputs * outputs / fastest
