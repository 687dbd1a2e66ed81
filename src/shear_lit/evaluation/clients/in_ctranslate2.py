"""CTranslate2 as a client: its own converter, then its generator in float32."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "ctranslate2"

ctranslate2: Any


def prepare() -> None:
    """Import the client, its converter and what that needs."""
    global ctranslate2
    import ctranslate2
    import ctranslate2.converters
    import torch  # noqa: F401
    import transformers  # noqa: F401


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Logits and greedy tokens; it takes a text's ids from transformers."""
    with tempfile.TemporaryDirectory(prefix="ctranslate2-") as scratch:
        converted = str(Path(scratch) / "model")
        ctranslate2.converters.TransformersConverter(job["directory"], trust_remote_code=False).convert(
            converted, quantization="float32"
        )
        generator = ctranslate2.Generator(
            converted, device="cpu", compute_type="float32", intra_threads=1, inter_threads=1
        )
        np.save(job["logits"], np.concatenate([_logits(generator, row) for row in job["tokens"]]))
        greedy = _greedy(generator, job) if job["greedy_from"] else None
    return {"kind": "logits", "logits": job["logits"], "greedy": greedy, "ids": None}


def _logits(generator: Any, tokens: list[int]) -> np.ndarray:
    found: np.ndarray = np.array(generator.forward_batch([tokens]))[0]
    return found


def _greedy(generator: Any, job: dict[str, Any]) -> list[int]:
    tokens = list(job["greedy_from"])
    for _ in range(job["new_tokens"]):
        tokens.append(int(_logits(generator, tokens)[-1].argmax()))
    return tokens[len(job["greedy_from"]) :]
