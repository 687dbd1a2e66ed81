"""What does a step beside a teacher cost, compared with the same step alone and a forward pass of the teacher?

A step is forward, backward and one AdamW update in float32, of a random model of the demo's target shape; the teacher
is a random SmolLM2-135M. ``stock`` is the step by the loss that stock transformers computes from whole logits.

    python benchmarks/distillation_step.py --sequences 4 --tokens 128
    python benchmarks/distillation_step.py --sequences 1 --tokens 1024

Time: one process, all kinds in turn, in an order that alternates; each round gives one ratio. Memory: child processes
that take steps of one kind; the peak of the resident set, beyond what the imports take. Prints one JSON line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gated_step import CONFIGS, peak_mebibytes
from machine import machine
from shear_lit.models.head import next_token_losses
from shear_lit.models.registry import carved_config
from shear_lit.theory.losses import Weights
from shear_lit.theory.shape import ModelShape
from shear_lit.training.distillation import step_sums

TARGET = ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1280)
KINDS = ("stock", "student", "teacher", "distillation")
STEPS_FOR_MEMORY = 3
MOST = {"time": 1.10, "memory": 1.15}


class Training:
    """A student with its optimizer, and a teacher."""

    def __init__(self, sequences: int, tokens: int, *, taught: bool) -> None:
        torch.manual_seed(0)
        source = CONFIGS["smollm2-135m"]()
        assert isinstance(source, LlamaConfig)
        source._attn_implementation = "sdpa"
        self.teacher: Any = None
        if taught:
            model = AutoModelForCausalLM.from_config(source).eval().requires_grad_(requires_grad=False)
            self.teacher = SimpleNamespace(model=model)
        small = carved_config(source, TARGET, kept_layers=list(range(TARGET.layers)))
        small._attn_implementation = "sdpa"
        self.model = AutoModelForCausalLM.from_config(small).train()
        ids = torch.randint(0, source.vocab_size, (sequences, tokens))
        self.inputs = {"input_ids": ids, "labels": ids}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def step(self, kind: str) -> float:
        """The seconds of one step, or of one pass of the teacher."""
        start = time.perf_counter()
        if kind == "teacher":
            with torch.no_grad():
                next_token_losses(self.teacher.model, self.inputs)
            return time.perf_counter() - start
        if kind == "stock":
            loss = self.model(**self.inputs, use_cache=False).loss
        else:
            beside = kind == "distillation"
            weights = Weights(divergence=float(beside))
            sums = step_sums(self.model, self.inputs, weights, self.teacher if beside else None)
            loss = sums.total / self.inputs["labels"][:, 1:].numel()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def measure_time(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of all kinds, and the ratios of each round."""
    training = Training(options.sequences, options.tokens, taught=True)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(options.repeats + 1):
        for kind in KINDS if number % 2 else reversed(KINDS):
            found = training.step(kind)
            if number:  # the first warms up
                seconds[kind].append(found)
    rounds = list(zip(*(seconds[kind] for kind in KINDS), strict=True))
    ratios = sorted(beside / (student + teacher) for _, student, teacher, beside in rounds)
    chunked = sorted(student / stock for stock, student, *_ in rounds)
    return {
        "seconds": {kind: round(statistics.median(found), 4) for kind, found in seconds.items()},
        "distillation_to_student_and_teacher": _spread(ratios),
        "student_to_stock": _spread(chunked),
    }


def _spread(ratios: list[float]) -> dict[str, float]:
    """The median, and what nine in ten lie between."""
    cut = len(ratios) // 20
    return {
        "median": round(statistics.median(ratios), 4),
        "low": round(ratios[cut], 4),
        "high": round(ratios[-1 - cut], 4),
    }


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peaks of steps, each kind in a process of its own."""
    peaks = {}
    for kind in ("stock", "student", "distillation"):
        flags = ["--sequences", str(options.sequences), "--tokens", str(options.tokens), "--child", kind]
        child = subprocess.run([sys.executable, __file__, *flags], check=True, capture_output=True, text=True)
        peaks[kind] = json.loads(child.stdout)
    allowed = peaks["student"]["peak"] + peaks["distillation"]["teacher"]
    return {
        "mebibytes": {kind: round(found["peak"]) for kind, found in peaks.items()},
        "teacher_mebibytes": round(peaks["distillation"]["teacher"]),
        "memory_ratio": round(peaks["distillation"]["peak"] / allowed, 4),
    }


def peak_of(options: argparse.Namespace) -> dict[str, float]:
    """Of this process beyond its imports, and what the teacher's weights take of it."""
    imports = peak_mebibytes()
    training = Training(options.sequences, options.tokens, taught=options.child == "distillation")
    for _ in range(STEPS_FOR_MEMORY):
        training.step(options.child)
    weights = training.teacher.model.parameters() if training.teacher is not None else ()
    teacher = sum(weight.numel() * weight.element_size() for weight in weights) / 2**20
    return {"peak": peak_mebibytes() - imports, "teacher": teacher}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(peak_of(options)))
        return
    # The children run first, while this process holds no model.
    figures = {**measure_memory(options), **measure_time(options)}
    sizes = {"sequences": options.sequences, "tokens": options.tokens, "repeats": options.repeats}
    print(json.dumps({"benchmark": "distillation_step", "most": MOST, **sizes, **figures, **machine()}))


if __name__ == "__main__":
    main()
