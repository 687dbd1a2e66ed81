"""Optimum as a client: its export to ONNX, then ONNX Runtime in float32."""

from typing import Any

import numpy as np

PACKAGE = "optimum.onnxruntime"

torch: Any
model_class: Any


def prepare() -> None:
    """Import the client."""
    global torch, model_class
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM as model_class


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Logits and greedy tokens; it takes a text's ids from transformers."""
    model = model_class.from_pretrained(
        job["directory"], export=True, use_cache=False, use_io_binding=False, trust_remote_code=False
    )
    np.save(job["logits"], np.concatenate([_logits(model, row) for row in job["tokens"]]))
    greedy = _greedy(model, job) if job["greedy_from"] else None
    return {"kind": "logits", "logits": job["logits"], "greedy": greedy, "ids": None}


def _logits(model: Any, tokens: list[int]) -> np.ndarray:
    row = torch.tensor([tokens])
    places = torch.arange(len(tokens))[None]
    found = model(input_ids=row, attention_mask=torch.ones_like(row), position_ids=places).logits
    logits: np.ndarray = found[0].float().numpy()
    return logits


def _greedy(model: Any, job: dict[str, Any]) -> list[int]:
    tokens = list(job["greedy_from"])
    for _ in range(job["new_tokens"]):
        tokens.append(int(_logits(model, tokens)[-1].argmax()))
    return tokens[len(job["greedy_from"]) :]
