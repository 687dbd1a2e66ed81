"""llama.cpp as a client: its own converter to a float32 GGUF file, then its server in this process (xllamacpp).

The converter is no part of xllamacpp: ``LLAMA_CPP_CONVERTER`` names the directory that holds convert_hf_to_gguf.py,
conversion/ and gguf-py/ of llama.cpp's repository; otherwise it is ``converter`` in the interpreter's environment.
The server tells log-probabilities of the next token: each position is asked for by itself. Of large vocabularies only
some positions are asked for.
"""

import importlib
import json
import os
import re
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "xllamacpp"

xllamacpp: Any
converter: Any

_REASON = re.compile(r"error loading model: (.+)")
_SMALL_FILE = 2 * 10**9
_LARGE_VOCABULARY, _FEW_POSITIONS = 8192, 8


def prepare() -> None:
    """Import the client and its converter."""
    global xllamacpp, converter
    import xllamacpp

    place = _converter_directory()
    sys.path[:0] = [str(place), str(place / "gguf-py")]
    converter = importlib.import_module("convert_hf_to_gguf")


def lacking() -> str | None:
    """What has to be there besides the client."""
    place = _converter_directory()
    if (place / "convert_hf_to_gguf.py").is_file():
        return None
    return f"convert_hf_to_gguf.py of llama.cpp, sought in {place}; set LLAMA_CPP_CONVERTER to where it is"


def _converter_directory() -> Path:
    return Path(os.environ.get("LLAMA_CPP_CONVERTER") or Path(sys.prefix) / "converter")


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities, greedy tokens and token ids."""
    with tempfile.TemporaryDirectory(prefix="llama.cpp-") as scratch:
        file = Path(scratch) / "model.gguf"
        _convert(job["directory"], file)
        server = _Server(file, job)
        positions, rows = _log_probabilities(server, job, _vocabulary(job["directory"]))
        np.save(job["logits"], rows)
        return {
            "kind": "log_probabilities",
            "logits": job["logits"],
            "positions": positions,
            "greedy": _greedy(server, job) if job["greedy_from"] else None,
            "ids": None if job["text"] is None else server.ids(job["text"]),
            "stops": [token for token in job["ends"] if server.stops_behind(token, job["greedy_from"])]
            if job["greedy_from"]
            else None,
        }


def _convert(directory: str, file: Path) -> None:
    sys.argv = ["convert_hf_to_gguf.py", directory, "--outtype", "f32", "--outfile", str(file)]
    converter.main()


def _vocabulary(directory: str) -> int:
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    return int(config["vocab_size"])


class _Server:
    """One model, loaded."""

    def __init__(self, file: Path, job: dict[str, Any]) -> None:
        longest = max(len(row) + 1 for row in job["tokens"])
        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx = max(longest, len(job["greedy_from"] or []) + job["new_tokens"] + 1)
        settings.n_parallel = 1
        # Its threads wait in a busy loop: on a core that others use, too, two are slower than one.
        threads = 1 if file.stat().st_size < _SMALL_FILE else os.cpu_count() or 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.warmup = False
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self._server = xllamacpp.Server(settings)
        except RuntimeError as error:  # it says no more than that it failed
            reason = _REASON.search(Path(job["log"]).read_text(encoding="utf-8", errors="replace"))
            raise RuntimeError(reason[1] if reason else str(error)) from error
        self._letter = self.ids("a")[-1]

    def next(self, tokens: list[int], count: int, *, reuse: bool = False) -> list[dict[str, Any]]:
        """The ``count`` most probable next tokens with their log-probabilities, before any sampling.

        What is generated is always the same letter: of a part of a character, or an end of the text, the server
        tells no log-probabilities.
        """
        request = {
            "prompt": tokens,
            "max_tokens": 1,
            "logprobs": count,
            "n_probs": count,
            "temperature": 0,
            "cache_prompt": reuse,
            "logit_bias": [[self._letter, 1e6]],
        }
        found = self._server.handle_completions(request)
        if "choices" not in found:
            raise RuntimeError(f"the server answered {json.dumps(found)}")
        best: list[dict[str, Any]] = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return best

    def stops_behind(self, token: int, prompt: list[int]) -> bool:
        """Whether it stops where it is made to write ``token``."""
        request = {"prompt": prompt, "max_tokens": 2, "temperature": 0, "logit_bias": [[token, 1e6]]}
        found = self._server.handle_completions(request)
        if "choices" not in found:
            raise RuntimeError(f"the server answered {json.dumps(found)}")
        return bool(found["choices"][0]["finish_reason"] == "stop")

    def ids(self, text: str) -> list[int]:
        """The ids of a text, with what its tokenizer adds."""
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        request = urllib.request.Request(
            f"{self._server.listening_address}/tokenize",
            data=body,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return [int(token) for token in json.load(reply)["tokens"]]


def _log_probabilities(server: _Server, job: dict[str, Any], vocabulary: int) -> tuple[list[int], np.ndarray]:
    prefixes = [row[: length + 1] for row in job["tokens"] for length in range(len(row))]
    positions = list(range(len(prefixes)))
    if vocabulary > _LARGE_VOCABULARY:  # each answer of theirs is megabytes of JSON
        chosen = np.linspace(0, len(prefixes) - 1, min(_FEW_POSITIONS, len(prefixes)))
        positions = sorted({round(place) for place in chosen.tolist()})
    rows = np.full((len(positions), vocabulary), np.nan, dtype=np.float32)
    for row, position in zip(rows, positions, strict=True):
        for entry in server.next(prefixes[position], vocabulary):
            row[entry["id"]] = entry["logprob"]
    return positions, rows


def _greedy(server: _Server, job: dict[str, Any]) -> list[int]:
    tokens = list(job["greedy_from"])
    for _ in range(job["new_tokens"]):
        (best,) = server.next(tokens, 1, reuse=True)
        tokens.append(int(best["id"]))
    return tokens[len(job["greedy_from"]) :]
