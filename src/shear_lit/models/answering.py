"""An answer of a model, token by token as it is generated, and how its tokens are chosen."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from shear_lit.ranges import Count, CountFrom0, NumberFrom0, PositiveFraction, PositiveNumber


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How each token of an answer is chosen; what is None is as the model's own settings say."""

    temperature: NumberFrom0 | None = None
    """What logits are divided by; 0: always the most probable token."""
    top_p: PositiveFraction | None = None
    """Of the most probable tokens, so many as have this probability together."""
    top_k: Count | None = None
    """Of the most probable tokens, so many."""
    repetition_penalty: PositiveNumber | None = None
    """What makes tokens that are there already less probable; 1: nothing."""
    max_new_tokens: Count = 512
    """Tokens of an answer at most."""
    seed: CountFrom0 = 17
    """What draws depend on."""

    def over(self, own: GenerationConfig, ends: Iterable[int]) -> GenerationConfig:
        """The model's ``own`` settings with these in force, and ``ends`` among the tokens that end an answer."""
        settings = copy.deepcopy(own)
        asked = {
            name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")
        }
        draws = [asked[name] for name in ("temperature", "top_p", "top_k") if asked[name] is not None]
        if draws:
            settings.do_sample = self.temperature != 0
        for name, value in asked.items():
            if value is not None:
                setattr(settings, name, value)
        if not settings.do_sample:
            settings.temperature = settings.top_p = settings.top_k = settings.min_p = settings.typical_p = (
                None
            )
        settings.max_length = settings.min_length = settings.min_new_tokens = None
        settings.max_new_tokens = int(self.max_new_tokens)
        settings.eos_token_id = sorted({*ids_of(own.eos_token_id), *ends}) or None
        settings.pad_token_id = own.pad_token_id if isinstance(own.pad_token_id, int) else 0
        return settings


GREEDY = Sampling(temperature=0.0)
"""Always the most probable token."""


def ids_of(entry: Any) -> list[int]:
    """The ids of an entry of generation settings, which may be one, several or none."""
    return [] if entry is None else [entry] if isinstance(entry, int) else [int(each) for each in entry]


class _Streamer(BaseStreamer):
    """Hands on every token but those of the prompt, which transformers gives first."""

    def __init__(self, take: Callable[[int], None]) -> None:
        self._take, self._seen_prompt = take, False

    def put(self, value: torch.Tensor) -> None:
        """Take what was generated."""
        if not self._seen_prompt:
            self._seen_prompt = True
            return
        for token in value.flatten().tolist():
            self._take(token)

    def end(self) -> None:
        """Nothing is held back."""


@torch.inference_mode()
def write_answer(
    model: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    ends: Iterable[int] = (),
    take: Callable[[int], None] = lambda token: None,
) -> list[int]:
    """The tokens that ``model`` writes after ``prompt``, that which ends them included; ``take`` is given each at once.

    The same seed gives the same ones. What ``take`` raises, or a signal, ends it.
    """
    written: list[int] = []

    def keep(token: int) -> None:
        written.append(token)
        take(token)

    tokens = torch.tensor([list(prompt)], device=model.device)
    own = model.generation_config
    # What the given settings leave open would be taken from it.
    model.generation_config = settings = sampling.over(own, ends)
    try:
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(sampling.seed)
            model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                generation_config=settings,
                streamer=_Streamer(keep),
            )
    finally:
        model.generation_config = own
    return written
