"""How fast models write, and what: greedy, one sequence, with the key/value cache."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from shear_lit.models.huggingface import read_model


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one model wrote, and how fast."""

    text: str
    """The prompt's continuation."""
    speeds: tuple[float, ...]
    """New tokens per second of every repeat, reading of the prompt included."""

    @property
    def tokens_per_second(self) -> float:
        """The median speed."""
        return median(self.speeds)


def compare_generation(
    models: Mapping[str, Path], prompt: str, *, new_tokens: int, repeats: int
) -> dict[str, Generation]:
    """Let every model continue ``prompt``; the timed repeats alternate over the models, so that all meet the same load.

    The models must have one tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(next(iter(models.values())), trust_remote_code=False)
    tokens = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
    networks = {name: read_model(str(path), dtype=torch.float32) for name, path in models.items()}
    # The first generation of each also warms it up.
    texts = {name: _greedy(network, tokens, 1, new_tokens)[0] for name, network in networks.items()}
    speeds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(repeats):
        for name, network in networks.items():
            speeds[name].append(_greedy(network, tokens, new_tokens, new_tokens)[1])
    return {
        name: Generation(
            text=str(tokenizer.decode(text, skip_special_tokens=True)), speeds=tuple(speeds[name])
        )
        for name, text in texts.items()
    }


def _greedy(network: Any, tokens: Tensor, least: int, most: int) -> tuple[list[int], float]:
    """The new tokens, and how many there were per second."""
    start = time.perf_counter()
    written = network.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        use_cache=True,
        min_new_tokens=least,
        max_new_tokens=most,
        pad_token_id=network.generation_config.eos_token_id,
    )
    seconds = time.perf_counter() - start
    new = written[0, tokens.shape[1] :].tolist()
    return new, len(new) / seconds
