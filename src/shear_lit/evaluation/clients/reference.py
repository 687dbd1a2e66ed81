"""What a directory computes according to the transformers of this environment, and what clients are asked about it."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig

from shear_lit.data.tokens.conversions import beside
from shear_lit.evaluation.clients.comparison import Expected
from shear_lit.models.huggingface import CONFIG, read_model

PROBE_TOKENS, PROMPT_TOKENS, NEW_TOKENS = 32, 8, 32
TEXT = "The quick brown fox, aged 42, said: «naïve café» …\n\n\tdef f(x):\n        return x ** 2  # 12345\n"
"""Words, digits, spaces, and signs of more than one byte."""

_SEED = 20231006
_SHORT_WINDOW = 8
_VIEWS: dict[str, Path] = {}
"""Directories of links that are in use, and the model that each is a view of: links out of others are not followed."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The tokens that the reference and all clients are given."""

    tokens: Sequence[int]
    """One row."""
    new_tokens: int
    """How many to write after the first ones of the row."""

    @property
    def prompt(self) -> Sequence[int]:
        """What is continued greedily."""
        return self.tokens[:PROMPT_TOKENS]


def probe_of(config: PretrainedConfig) -> Probe:
    """The same tokens for every model of one vocabulary, as many as fit."""
    longest = int(getattr(config, "max_position_embeddings", None) or PROBE_TOKENS + NEW_TOKENS)
    generator = torch.Generator().manual_seed(_SEED)
    tokens = torch.randint(config.vocab_size, (min(PROBE_TOKENS, longest - 1),), generator=generator)
    return Probe(tokens=tokens.tolist(), new_tokens=min(NEW_TOKENS, longest - PROMPT_TOKENS))


@torch.inference_mode()
def expected_of(directory: str, probe: Probe, *, text: str | None = None) -> Expected:
    """Logits, greedy tokens and ids, in float32 with eager attention.

    Raises:
        SourceError: the model cannot be read.
    """
    model: Any = read_model(directory, dtype=torch.float32, attention="eager", also=_linked(directory)).eval()
    row = torch.tensor([probe.tokens])
    logits = model(input_ids=row, use_cache=False).logits[0]
    count, prompt = probe.new_tokens, torch.tensor([probe.prompt])
    # What the model's own settings would add to it (penalties, ends) is no matter of its weights.
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0
    )
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt))
    along = model(input_ids=written, use_cache=False).logits[0, prompt.shape[1] - 1 : -1]
    return Expected(
        logits=logits.numpy(),
        greedy=written[0, prompt.shape[1] :].tolist(),
        greedy_logits=along.numpy(),
        ids=None if text is None else ids_of(directory, text),
    )


def _linked(directory: str) -> tuple[Path, ...]:
    """Where the files of a view lie that ``with_short_window`` made; of other directories, nowhere else."""
    origin = _VIEWS.get(directory)
    return () if origin is None else (origin,)


def ids_of(directory: str, text: str) -> list[int]:
    """The ids of a text."""
    tokenizer = beside(str(_VIEWS.get(directory, directory)))
    return [int(token) for token in tokenizer.encode(text)]


def unseen_window(directory: str) -> int | None:
    """The sliding window of a model whose probe is not longer than it, so that no block would show its kind."""
    entries = json.loads((Path(directory) / CONFIG).read_text(encoding="utf-8"))
    window = entries.get("sliding_window")
    kinds = entries.get("layer_types") or ["sliding_attention"]
    if not isinstance(window, int) or entries.get("use_sliding_window") is False or window < PROBE_TOKENS:
        return None
    return window if "sliding_attention" in kinds else None


@contextmanager
def with_short_window(directory: str) -> Iterator[str]:
    """The same model with a window shorter than the probe, in a directory of links that is gone afterwards."""
    origin = Path(directory).resolve()
    with tempfile.TemporaryDirectory(prefix="shear-lit-window-") as scratch:
        for path in origin.iterdir():
            if path.name != CONFIG:
                (Path(scratch) / path.name).symlink_to(path)
        entries = json.loads((origin / CONFIG).read_text(encoding="utf-8"))
        entries["sliding_window"] = _SHORT_WINDOW
        (Path(scratch) / CONFIG).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        _VIEWS[scratch] = origin
        try:
            yield scratch
        finally:
            del _VIEWS[scratch]
