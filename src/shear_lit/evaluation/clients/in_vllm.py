"""vLLM as a client: its offline engine in this process, on the CPU, in float32; raw logits of the whole vocabulary."""

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "vllm"

vllm: Any

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
}
_SLOW_IMPORTS = ("vllm.entrypoints.llm", "vllm.v1.engine.llm_engine", "vllm.v1.worker.cpu_worker")
"""What an engine imports when it is made; as internal names they may go, and then it still imports them itself."""


def prepare() -> None:
    """Import the client."""
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    global vllm
    import vllm

    for name in _SLOW_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Logits, greedy tokens and token ids."""
    directory = Path(job["directory"])
    longest = max(len(row) + 1 for row in job["tokens"])
    if job["greedy_from"]:
        longest = max(longest, len(job["greedy_from"]) + max(2, job["new_tokens"]))
    engine = vllm.LLM(
        model=str(directory),
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=longest,
        max_num_seqs=1,
        max_logprobs=-1,
        logprobs_mode="raw_logits",
        skip_tokenizer_init=job["text"] is None,
        trust_remote_code=False,
        disable_log_stats=True,
        seed=0,
    )
    vocabulary = engine.llm_engine.model_config.get_vocab_size()
    rows = [_logits(engine, row, vocabulary) for row in job["tokens"]]
    np.save(job["logits"], np.concatenate(rows))
    return {
        "kind": "logits",
        "logits": job["logits"],
        "greedy": _greedy(engine, job) if job["greedy_from"] else None,
        "ids": None if job["text"] is None else list(engine.get_tokenizer().encode(job["text"])),
        "stops": _stops(engine, job) if job["greedy_from"] else None,
    }


def _logits(engine: Any, tokens: list[int], vocabulary: int) -> np.ndarray:
    """Of every position: those of the prompt's, and those of the one token that is generated."""
    everything = vllm.SamplingParams(
        temperature=0,
        max_tokens=1,
        ignore_eos=True,
        prompt_logprobs=-1,
        logprobs=-1,
        detokenize=False,
    )
    (found,) = engine.generate({"prompt_token_ids": tokens}, everything, use_tqdm=False)
    positions = [*found.prompt_logprobs[1:], found.outputs[0].logprobs[0]]
    logits = np.full((len(tokens), vocabulary), np.nan, dtype=np.float32)
    for index, position in enumerate(positions):
        ids = np.fromiter(position.keys(), dtype=np.int64, count=len(position))
        logits[index, ids] = np.fromiter((entry.logprob for entry in position.values()), dtype=np.float32)
    return logits


def _stops(engine: Any, job: dict[str, Any]) -> list[int]:
    """Which of the ids that end a turn are the last ones, where the model is made to write them."""
    found = []
    for token in job["ends"]:
        settings = vllm.SamplingParams(
            temperature=0, max_tokens=2, logit_bias={token: 100.0}, detokenize=False
        )
        (written,) = engine.generate({"prompt_token_ids": job["greedy_from"]}, settings, use_tqdm=False)
        if written.outputs[0].finish_reason == "stop":
            found.append(token)
    return found


def _greedy(engine: Any, job: dict[str, Any]) -> list[int]:
    count = job["new_tokens"]
    settings = vllm.SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
    (found,) = engine.generate({"prompt_token_ids": job["greedy_from"]}, settings, use_tqdm=False)
    return [int(token) for token in found.outputs[0].token_ids]
