"""transformers as a client: any version from 4.40 on, logits in float32 with eager attention."""

import logging
from typing import Any

import numpy as np

PACKAGE = "transformers"

torch: Any
transformers: Any


def prepare() -> None:
    """Import the client."""
    global torch, transformers
    import torch
    import transformers
    import transformers.generation.utils  # these take a second that every job would spend
    import transformers.models.auto.modeling_auto
    import transformers.models.auto.tokenization_auto


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Logits, greedy tokens and token ids."""
    notes = _Notes()
    for name in ("transformers", "py.warnings"):
        logging.getLogger(name).addHandler(notes)
    logging.captureWarnings(capture=True)
    model, report = _model(job["directory"])
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(kind):
            names = sorted(str(name) for name in report[kind])
            raise ValueError(f"{kind.replace('_', ' ')}: {', '.join(names[:3])} ({len(names)})")
    if report.get("unexpected_keys"):
        notes.lines.append(f"unexpected keys: {', '.join(sorted(report['unexpected_keys'])[:3])}")
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([row]), use_cache=False).logits[0] for row in job["tokens"]]
        np.save(job["logits"], torch.cat(rows).float().numpy())
        stops = (
            _stops(model, job) if job["greedy_from"] else None
        )  # with the settings that come with the model
        greedy = _greedy(model, job) if job["greedy_from"] else None
    return {
        "kind": "logits",
        "logits": job["logits"],
        "greedy": greedy,
        "ids": None if job["text"] is None else _ids(job),
        "stops": stops,
        "notes": notes.lines,
    }


def _model(directory: str) -> tuple[Any, dict[str, Any]]:
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    name = "dtype" if release >= (4, 56) else "torch_dtype"
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory,
        attn_implementation="eager",
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        **{name: torch.float32},
    )
    return model.eval(), report


def _stops(model: Any, job: dict[str, Any]) -> list[int]:
    """Which of the ids that end a turn are the last ones, where the model is made to write them."""
    prompt, found = torch.tensor([job["greedy_from"]]), []
    for token in job["ends"]:
        settings = {
            "sequence_bias": {(token,): 1e6},
            "do_sample": False,
            "max_new_tokens": 2,
            "pad_token_id": 0,
        }
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        if written.shape[1] == prompt.shape[1] + 1:
            found.append(token)
    return found


def _greedy(model: Any, job: dict[str, Any]) -> list[int]:
    count, prompt = job["new_tokens"], torch.tensor([job["greedy_from"]])
    # What the model's own settings would add to it (penalties, ends) is no matter of its weights.
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0
    )
    found = model.generate(prompt, attention_mask=torch.ones_like(prompt))
    return [int(token) for token in found[0, prompt.shape[1] :]]


def _ids(job: dict[str, Any]) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        job["directory"], trust_remote_code=False, local_files_only=True
    )
    return [int(token) for token in tokenizer.encode(job["text"])]


class _Notes(logging.Handler):
    """Collects warnings, a line each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(" ".join(record.getMessage().split())[:300])
