"""What does a training step with gates cost, compared with the same step of the plain Hugging Face model?

A step is forward, backward and one AdamW update in float32, on one sequence of random tokens, with random
weights. The gated step also draws all gates, computes the size penalty and updates gates and multipliers.
Prints one JSON line.

    python benchmarks/gated_step.py --model smollm2-135m
    python benchmarks/gated_step.py --model llama-1b --tokens 8192 --device cuda --precision bf16-mixed

Time: one process, plain and gated steps alternate on one model (which comes first alternates too); each pair
gives one ratio. Memory: child processes that run one kind of step each; the peak of the resident set, beyond
what the imports take; on a device, the peak of what is allocated there.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from machine import machine
from shear_lit.models.family import Family
from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import AttachedGates, attach
from shear_lit.pruning.gates import Gates, Multipliers
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis

_LLAMA = {"head_dim": 64, "max_position_embeddings": 8192}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "smollm2-135m": lambda: LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
        **_LLAMA,
    ),
    "mha-70m": lambda: LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=11,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=32000,
        tie_word_embeddings=False,
        **_LLAMA,
    ),
    "qwen3-53m": lambda: Qwen3Config(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        vocab_size=32000,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
    "gemma3-54m": lambda: Gemma3TextConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        vocab_size=32000,
        sliding_window=512,
        query_pre_attn_scalar=128,
        max_position_embeddings=8192,
    ),
    "llama-1b": lambda: LlamaConfig(
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=20,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=32000,
        tie_word_embeddings=True,
        **_LLAMA,
    ),
    "pythia-70m": lambda: GPTNeoXConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        vocab_size=50304,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ),
}
BARS = {"time": 1.03, "memory": 1.02}
STEPS_FOR_MEMORY = 3
KINDS = ("plain", "gated")


def build(name: str) -> PreTrainedModel:
    """The model, with random weights and the stock sdpa attention."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config.use_cache = False
    config._attn_implementation = "sdpa"
    return AutoModelForCausalLM.from_config(config).train()


class Training:
    """One model and its optimizer, which takes plain steps, and gated ones while gates are attached."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.narrow = options.device, options.precision == "bf16-mixed"
        with self.device:
            self.model = build(options.model)
        self.family: Family = family_of(self.model.config)
        shape = self.family.shape
        self.axes = tuple(axis for axis in Axis if shape.units(axis) > 1)
        self.target = {axis: 0.3 for axis in self.axes}
        self.gates = Gates(shape, self.axes).to(self.device)
        self.multipliers = Multipliers(self.axes).to(self.device)
        self.tokens = torch.randint(0, self.model.config.vocab_size, (1, options.tokens), device=self.device)
        # Parameters without a gradient are skipped: a plain step updates the weights only.
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.model.parameters()), "lr": 1e-4},
                {"params": list(self.gates.parameters()), "lr": 1.0},
                {"params": list(self.multipliers.parameters()), "lr": 1.0, "maximize": True},
            ],
            weight_decay=0.0,
        )
        self.steps = 0

    def step(self, attached: AttachedGates | None) -> None:
        """One update, with gates where they are attached."""
        penalty: torch.Tensor | float = 0.0
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            if attached is not None:
                noise = keyed_uniform(self.family.shape, self.axes, key=(0, self.steps, 0))
                state = self.gates({axis: part.to(self.device) for axis, part in noise.items()})
                attached.set(state.values)
                penalty = self.multipliers(state.sparsity, self.target).total
            loss = self.model(self.tokens, labels=self.tokens).loss + penalty
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1

    def timed_step(self, kind: str) -> float:
        """The seconds of one step; attaching, which a run does once, is not counted."""
        attached = attach(self.model, self.family) if kind == "gated" else None
        self.wait()
        start = time.perf_counter()
        self.step(attached)
        self.wait()
        seconds = time.perf_counter() - start
        if attached is not None:
            attached.detach()
        return seconds

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure_time(options: argparse.Namespace) -> dict[str, object]:
    """Seconds of both kinds of step and the ratio of each repeat."""
    training, repeats = Training(options), options.repeats
    for kind in KINDS * 2:
        training.timed_step(kind)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repeat in range(repeats):
        for kind in KINDS if repeat % 2 == 0 else reversed(KINDS):
            seconds[kind].append(training.timed_step(kind))
    ratios = [gated / plain for plain, gated in zip(*seconds.values(), strict=True)]
    return {
        "plain_seconds": statistics.median(seconds["plain"]),
        "gated_seconds": statistics.median(seconds["gated"]),
        "time_ratio": statistics.median(ratios),
        "time_ratio_spread": [min(ratios), max(ratios)],
        "time_ratio_interval": median_interval(ratios),
        "time_ratios": ratios,
    }


def median_interval(values: list[float]) -> list[float]:
    """The 95 % interval of the median, by bootstrap."""
    random = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(values), (10_000, len(values)), generator=random)
    medians = torch.tensor(values, dtype=torch.float64)[drawn].quantile(0.5, dim=1)
    return medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def peak_mebibytes(device: torch.device) -> float:
    """The most that this process has held so far: its resident set, or what it has allocated on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of_one_kind(options: argparse.Namespace) -> dict[str, float]:
    """What a child process prints: its peak beyond the imports, and beyond the built model."""
    imports = peak_mebibytes(options.device)
    training = Training(options)
    built = peak_mebibytes(options.device)
    attached = attach(training.model, training.family) if options.child == "gated" else None
    for _ in range(STEPS_FOR_MEMORY):
        training.step(attached)
    peak = peak_mebibytes(options.device)
    return {"total": peak - imports, "beyond_model": peak - built}


def measure_memory(options: argparse.Namespace) -> dict[str, object]:
    """Peaks of both kinds of step, each in processes of its own."""
    peaks: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(options.memory_repeats):
        for kind in KINDS:
            command = [sys.executable, __file__, "--child", kind]
            command += [
                f"--{name}={getattr(options, name)}" for name in ("model", "tokens", "device", "precision")
            ]
            child = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[kind].append(json.loads(child.stdout))
    result: dict[str, object] = {}
    for part, suffix in (("total", ""), ("beyond_model", "_beyond_model")):
        plain, gated = ([peak[part] for peak in peaks[kind]] for kind in KINDS)
        ratios = [after / before for before, after in zip(plain, gated, strict=True)]
        result |= {
            f"plain_mebibytes{suffix}": statistics.median(plain),
            f"gated_mebibytes{suffix}": statistics.median(gated),
            f"memory_ratio{suffix}": statistics.median(ratios),
            f"memory_ratio_spread{suffix}": [min(ratios), max(ratios)],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=CONFIGS, default="smollm2-135m", help="which model to build")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of timed steps")
    parser.add_argument(
        "--memory-repeats", type=int, default=3, help="pairs of child processes; 0 skips memory"
    )
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the one sequence of a step")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(memory_of_one_kind(options)))
        return
    # The children run first, while this process holds no model.
    figures: dict[str, object] = {}
    if options.memory_repeats:
        figures |= measure_memory(options)
    if options.repeats:
        figures |= measure_time(options)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(options.model).parameters())
    print(
        json.dumps(
            {
                "benchmark": "gated_step",
                "bars": BARS,
                "model": options.model,
                "parameters": parameters,
                "tokens": options.tokens,
                "precision": options.precision,
                "repeats": options.repeats,
                "memory_repeats": options.memory_repeats,
                **{
                    key: [round(one, 4) for one in value] if isinstance(value, list) else round(value, 4)  # type: ignore[call-overload]
                    for key, value in figures.items()
                },
                **machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
