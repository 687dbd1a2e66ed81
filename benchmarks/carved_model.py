"""What does it cost to make a carved model, and is it as fast as one that was never anything else?

    python benchmarks/carved_model.py --work runs/carved

The demo's source (SmolLM2-135M) and target. Prints one JSON line.

Export: from a checkpoint of two steps and from a ranking by weights, alternating with the plain load and save of the
source by stock transformers, in the same dtypes, in one process; each round gives one ratio. What the export spends
on its own checks (gated against carved logits, written against reloaded model) is measured apart. Memory: the peak of
the resident set of a child process that exports, checks included, beyond what the imports take.
Generation: 64 tokens after 64, greedily, with the cache, in float32, by the carved model, by a model with random
weights built from the same config, and by the source, in turns.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from demo_inputs import write_demo_inputs
from machine import machine
from shear_lit import cli
from shear_lit.commands.demo.texts import DOMAINS
from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.models import writing
from shear_lit.models.huggingface import read_config
from shear_lit.models.registry import parameter_count
from shear_lit.theory.shape import ModelShape
from shear_lit.training.run_checkpoints import latest_checkpoint

TARGET = ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1280)
TIME_BAR, MEMORY_BAR, SPEED_BAR = 1.5, 2.2, (0.97, 1.03)
PROMPT, NEW_TOKENS = 64, 64
CHECKS = (
    *((verified_cut, name) for name in ("_gated_logits", "build_model", "logits_of")),
    *((writing, name) for name in ("read_model", "check_same_model")),
)
"""What only checks call, by the name under which they find it: ``write_model`` reads back what it wrote."""


def make_inputs(work: Path) -> dict[str, str]:
    """The source, a checkpoint of its pruning and a ranking of its units."""
    run, scores = work / "run", work / "scores.safetensors"
    source, data = write_demo_inputs(work)
    if not scores.exists():
        rank(str(source), str(scores), "weight")
    if not list(run.glob("checkpoints/*")):
        shutil.rmtree(run, ignore_errors=True)
        flags = {
            **{f"model.pruning.target.{axis}": size for axis, size in TARGET.to_dict().items()},
            "model.source": source,
            "model.pruning.constraint": "exact",
            "model.pruning.initial_scores": scores,
            "model.pruning.sparsity_warmup_steps": 0,
            "model.optimizer.warmup_steps": 1,
            "data.directory": data,
            "data.global_batch": 4,
            "data.micro_batch": 4,
            "data.validation_sequences": 1,
            "data.mixture.proportions": json.dumps(dict.fromkeys(DOMAINS, 1 / len(DOMAINS))),
            "data.mixture.rule": "static",
            "data.mixture.update_every_steps": 2,
            "checkpoint.every_steps": 2,
            "trainer.default_root_dir": run,
            "trainer.accelerator": "cpu",
            "trainer.devices": 1,
            "trainer.max_steps": 2,
        }
        cli.main(["fit", *(f"--{key}={value}" for key, value in flags.items())])
    return {"source": str(source), "checkpoint": str(latest_checkpoint(run)), "gates": str(scores)}


def peak_mebibytes() -> float:
    """The highest resident set of this program so far; unlike that of getrusage, not that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def exported(inputs: dict[str, str], way: str, output: Path) -> None:
    """One export, from a clean start."""
    shutil.rmtree(output, ignore_errors=True)
    if way == "checkpoint":
        export(inputs["checkpoint"], str(output))
    else:
        export(gates=inputs["gates"], output=str(output), target=TARGET)


def plainly_copied(inputs: dict[str, str], way: str, output: Path) -> None:
    """What stock transformers does with the source; training and cutting need it in float32."""
    shutil.rmtree(output, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(inputs["source"], dtype=torch.float32)
    stored = read_config(inputs["source"]).dtype or torch.float32
    model.to(stored).save_pretrained(output)  # type: ignore[arg-type]


class Stopwatch:
    """Adds up the time that some functions take; one that another of them calls is not counted twice."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if self._inside:
                return function(*args, **options)
            self._inside, begun = True, time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self._inside, self.seconds = False, self.seconds + time.perf_counter() - begun

        return timed


@contextmanager
def watched_checks() -> Iterator[Stopwatch]:
    """The time of everything in ``CHECKS``."""
    watch, originals = Stopwatch(), [(room, name, getattr(room, name)) for room, name in CHECKS]
    try:
        for room, name, function in originals:
            setattr(room, name, watch.around(function))
        yield watch
    finally:
        for room, name, function in originals:
            setattr(room, name, function)


def measure_export_time(inputs: dict[str, str], work: Path, way: str, rounds: int) -> dict[str, Any]:
    """Seconds of the plain copy, of the export's own work, and of its checks; the first round warms up."""
    seconds: dict[str, list[float]] = {"plain": [], "export": [], "checks": []}
    for round_ in range(rounds + 1):
        for kind in ("plain", "export") if round_ % 2 else ("export", "plain"):
            begun = time.perf_counter()
            with watched_checks() as watch:
                (plainly_copied if kind == "plain" else exported)(inputs, way, work / kind)
            spent = time.perf_counter() - begun
            if round_ and kind == "plain":
                seconds["plain"].append(spent)
            elif round_:
                seconds["export"].append(spent - watch.seconds)
                seconds["checks"].append(watch.seconds)
    ratios = [mine / plain for mine, plain in zip(seconds["export"], seconds["plain"], strict=True)]
    return {
        **{f"{kind}_seconds": statistics.median(values) for kind, values in seconds.items()},
        "time_ratio": statistics.median(ratios),
        "time_ratio_spread": [min(ratios), max(ratios)],
    }


def measure_export_memory(inputs: dict[str, str], work: Path, way: str) -> dict[str, Any]:
    """The peak of a child process that exports."""
    command = [sys.executable, __file__, "--work", str(work), "--child", way]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = float(child.stdout.splitlines()[-1])
    model = parameter_count(read_config(inputs["source"])) * 4 / 2**20
    return {"peak_mebibytes": peak, "float32_model_mebibytes": model, "memory_ratio": peak / model}


@torch.inference_mode()
def generation_seconds(model: Any, prompt: torch.Tensor) -> float:
    begun = time.perf_counter()
    found = model.generate(
        prompt, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True
    )
    assert found.shape == (len(prompt), PROMPT + NEW_TOKENS)
    return time.perf_counter() - begun


def measure_generation(inputs: dict[str, str], carved: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of the three models, and the ratios of each round; the first round warms up."""
    torch.manual_seed(0)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(carved), dtype=torch.float32)
    models = {
        "carved": AutoModelForCausalLM.from_pretrained(carved, dtype=torch.float32).eval(),
        "fresh": fresh.eval(),
        "source": AutoModelForCausalLM.from_pretrained(inputs["source"], dtype=torch.float32).eval(),
    }
    prompt = torch.randint(1000, 40000, (batch, PROMPT))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    order = list(models)
    for round_ in range(rounds + 1):
        order = order[1:] + order[:1]
        for name in order:
            spent = generation_seconds(models[name], prompt)
            if round_:
                seconds[name].append(spent)
    speeds = {name: batch * NEW_TOKENS / statistics.median(values) for name, values in seconds.items()}
    against = {
        other: [theirs / mine for theirs, mine in zip(seconds[other], seconds["carved"], strict=True)]
        for other in ("fresh", "source")
    }
    return {
        "batch": batch,
        "tokens_per_second": speeds,
        "speed_of_fresh": statistics.median(against["fresh"]),
        "speed_of_fresh_spread": [min(against["fresh"]), max(against["fresh"])],
        "speed_of_source": statistics.median(against["source"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5, help="timed exports of each kind")
    parser.add_argument("--generation-rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4], help="sequences generated at once")
    parser.add_argument("--child", choices=("checkpoint", "gates"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    inputs_file = options.work / "inputs.json"
    if options.child:
        inputs, imports = json.loads(inputs_file.read_text()), peak_mebibytes()
        exported(inputs, options.child, options.work / "child")
        print(peak_mebibytes() - imports)
        return
    inputs = make_inputs(options.work)
    inputs_file.write_text(json.dumps(inputs))
    figures: dict[str, Any] = {}
    for way in ("checkpoint", "gates"):
        figures[f"export_{way}"] = {
            **measure_export_memory(inputs, options.work, way),
            **measure_export_time(inputs, options.work, way, options.rounds),
        }
    figures["generation"] = [
        measure_generation(inputs, options.work / "export", batch, options.generation_rounds)
        for batch in options.batches
    ]
    print(
        json.dumps(
            {
                "benchmark": "carved_model",
                "bars": {"time": TIME_BAR, "memory": MEMORY_BAR, "speed_of_fresh": SPEED_BAR},
                **figures,
                **machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
