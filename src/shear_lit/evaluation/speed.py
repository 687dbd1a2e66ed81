"""How fast a model reads a prompt and writes after it, and the memory that it takes for that."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

BATCHES = (1, 8)
"""Sequences at once."""
_PROMPT, _WRITTEN, _REPEATS = 64, 16, 3


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What reading and writing takes."""

    tokens_per_second: Mapping[str, float]
    """By ``prompt`` or ``generation`` and batch (``prompt x8``): the median of three."""
    peak_bytes: int | None
    """The most memory that the weights and one of these passes took; none where the device does not count it."""


def measure_speeds(models: Mapping[str, Any]) -> dict[str, Speeds]:
    """Time every model.

    The repeats alternate over the models, so that all meet the same load; a first pass of each is not counted.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    peaks: dict[str, int | None] = dict.fromkeys(models)
    for model in models.values():
        _speeds(model, 1)  # a first pass is slow
    for _ in range(_REPEATS):
        for name, model in models.items():
            before = _begin_peak(model.device)
            for batch in BATCHES:
                for kind, speed in _speeds(model, batch).items():
                    found[name].setdefault(f"{kind} x{batch}", []).append(speed)
            peaks[name] = _peak(model, before)
    return {
        name: Speeds(
            tokens_per_second={kind: median(speeds) for kind, speeds in kinds.items()}, peak_bytes=peaks[name]
        )
        for name, kinds in found.items()
    }


class _Clock(StoppingCriteria):
    """Notes when each new token is there, and stops nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times = [_now(device)]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        self.times.append(_now(self._device))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def _speeds(model: Any, batch: int) -> dict[str, float]:
    """Of one greedy generation: the first new token is there when the prompt is read."""
    tokens = (torch.arange(2, 2 + _PROMPT) % model.config.vocab_size).repeat(batch, 1).to(model.device)
    clock = _Clock(model.device)
    model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        use_cache=True,
        min_new_tokens=1 + _WRITTEN,
        max_new_tokens=1 + _WRITTEN,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    begin, read, *_, end = clock.times
    return {"prompt": batch * _PROMPT / (read - begin), "generation": batch * _WRITTEN / (end - read)}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _begin_peak(device: torch.device) -> int | None:
    """Let the device count its peak anew, and say what is taken already; none where it does not count."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(model: Any, before: int | None) -> int | None:
    """The memory of a model and of what it took since, not of others that are on the device, too."""
    if before is None:
        return None
    return torch.cuda.max_memory_allocated(model.device) - before + int(model.get_memory_footprint())
