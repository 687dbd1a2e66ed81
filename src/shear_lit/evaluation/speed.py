"""How fast a model reads a prompt and writes after it."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

BATCHES = (1, 8)
"""Sequences at once."""
_PROMPT, _WRITTEN, _REPEATS = 64, 16, 3


def measure_speeds(models: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Tokens per second of every model, by ``prompt`` or ``generation`` and batch (``prompt x8``): the median of three.

    The repeats alternate over the models, so that all meet the same load; the first pass of each is not counted.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for repeat in range(_REPEATS + 1):
        for name, model in models.items():
            for batch in BATCHES:
                for kind, speed in _speeds(model, batch).items():
                    if repeat:
                        found[name].setdefault(f"{kind} x{batch}", []).append(speed)
    return {name: {kind: median(speeds) for kind, speeds in kinds.items()} for name, kinds in found.items()}


@torch.inference_mode()
def _speeds(model: Any, batch: int) -> dict[str, float]:
    tokens = (torch.arange(2, 2 + _PROMPT) % model.config.vocab_size).repeat(batch, 1).to(model.device)
    reading = _seconds(model, tokens, 1)
    writing = max(_seconds(model, tokens, 1 + _WRITTEN) - reading, 1e-9)
    return {"prompt": batch * _PROMPT / reading, "generation": batch * _WRITTEN / writing}


def _seconds(model: Any, tokens: torch.Tensor, new: int) -> float:
    """How long greedy generation of so many tokens takes, the reading of the prompt included."""
    start = _now(model.device)
    model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        use_cache=True,
        min_new_tokens=new,
        max_new_tokens=new,
        pad_token_id=0,
    )
    return _now(model.device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
