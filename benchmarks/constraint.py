"""Are the sizes on their targets at the end? Both constraints, the multipliers' remedy off and on, at three lengths.

    python benchmarks/constraint.py --work runs/constraint                  # real runs of the toy model (tests/toy.py)
    python benchmarks/constraint.py --work runs/game --game                 # the game alone, without a model

Real runs: ``shear-lit fit`` on the toy of the tests (3 layers, hidden 32, 8 heads over 2 KV heads, feed-forward 48, to
2, 24, 4 over 2, 32), with everything but lengths and constraint as configs/toy/prune.yaml has it. For each run: per
axis, the largest distance of its mean from the schedule, of its mean from the target at the end, and of its worst row.

The game: gates of SmolLM2-135M's shape under a made-up linear cost per unit with noise, by the package's own gates,
multipliers, penalty and optimizer groups; no model is run. It is what docs/log.md and deviation D12 speak of.
"""

import argparse
import csv
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from shear_lit import cli
from shear_lit.pruning.expectation import expected_units
from shear_lit.pruning.gates import ExactSize, Gates, Multipliers, keyed_uniform
from shear_lit.theory.constraint import scheduled_sparsity
from shear_lit.theory.exact_size import sharpness_at
from shear_lit.theory.shape import ModelShape, shrinking_axes
from shear_lit.training.checkpoints import read_checkpoint
from shear_lit.training.optimizer import OptimizerSettings, build_optimizer, build_schedule
from shear_lit.training.run_directory import latest_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.toy import Toy, write_toy

LENGTHS = (50, 150, 600)
TARGET = dict(layers=2, hidden=24, query_heads=4, kv_heads=2, intermediate=32)
SMOLLM2 = ModelShape(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536)
DEMO = ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1280)

METHODS = {
    "paper": {},
    "stiff": {"model.pruning.second_multiplier_start": "3000"},
    "exact": {"model.pruning.constraint": "exact"},
}
"""The multipliers from 0, from a second multiplier of 3,000 (deviation D12), and none at all (deviation D13)."""
RATES = {"paper": (0.5, 0.5), "stiff": (0.5, 0.1), "exact": (0.03, 0.0)}
"""Learning rates of gates and multipliers."""


def real_run(toy: Toy, folder: Path, method: str, steps: int) -> Path:
    """One run of the toy, with a sparsity warm-up of a fifth of it."""
    run = folder / f"{method}-{steps}"
    gates, multipliers = RATES[method]
    flags = {
        **{f"model.pruning.target.{axis}": str(size) for axis, size in TARGET.items()},
        "trainer.max_steps": str(steps),
        "trainer.log_every_n_steps": "1",
        "model.pruning.initial_log_alpha": str(math.log(100)),
        "model.pruning.sparsity_warmup_steps": str(steps // 5),
        "model.optimizer.warmup_steps": str(max(1, steps // 20)),
        "model.optimizer.gates_learning_rate": str(gates),
        "model.optimizer.multipliers_learning_rate": str(multipliers),
        "data.validation_sequences": "1",
        "data.mixture.update_every_steps": str(steps),
        "checkpoint.every_steps": str(steps),
        **METHODS[method],
    }
    shutil.rmtree(run, ignore_errors=True)
    cli.main([*toy.arguments("prune", run), *(f"--{key}={value}" for key, value in flags.items())])
    return run


def curve(run: Path) -> dict[str, list[tuple[float, float]]]:
    """By axis, expected and scheduled units at every step."""
    found: dict[str, list[tuple[float, float]]] = {}
    pending: dict[str, float] = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            parts = row["name"].split("/")
            if parts[0] == "size" and parts[2] == "expected":
                pending[parts[1]] = float(row["value"])
            elif parts[0] == "size":
                found.setdefault(parts[1], []).append((pending[parts[1]], float(row["value"])))
    return found


def report(run: Path) -> dict[str, dict[str, float]]:
    """How far every axis was from its schedule, and is from its target, as shares of the target."""
    contents = read_checkpoint(latest_checkpoint(run))
    target = contents.facts.target
    assert target is not None
    steps = curve(run)
    found = {}
    for axis in expected_units(contents.log_alpha, target, contents.facts.exact):
        have, want = zip(*steps[axis.axis.value], strict=True)
        # A report after step n has the sizes of step n beside the schedule of step n + 1.
        off = [abs(size - asked) for size, asked in zip(have[1:], want, strict=False)]
        rows = max(axis.highest - axis.target, axis.target - axis.lowest)
        found[axis.axis.value] = {
            "off_schedule": max(off) / axis.target,
            "mean_at_end": abs(axis.mean - axis.target) / axis.target,
            "worst_row_at_end": rows / axis.target,
        }
    return found


def game(
    method: str, *, steps: int, rates: tuple[float, float], second: float, cost: float, warmup: float
) -> dict[str, float]:
    """The game without a model; a step's loss is linear in the gates, with noise of its slopes."""
    torch.manual_seed(0)
    axes = shrinking_axes(SMOLLM2, DEMO)
    gates = Gates(SMOLLM2, axes)
    multipliers = Multipliers(axes, second_start=second) if method != "exact" else None
    price = {axis: torch.distributions.LogNormal(0.0, 1.0).sample(SMOLLM2.gate_shape(axis)) for axis in axes}
    price = {axis: values / values.sum() * cost for axis, values in price.items()}
    settings = OptimizerSettings(
        gates_learning_rate=rates[0], multipliers_learning_rate=rates[1], warmup_steps=steps // 10
    )
    optimizer = build_optimizer(settings, torch.nn.Linear(1, 1), gates, multipliers)
    schedule = build_schedule(settings, optimizer, total_steps=steps)
    over, ends = 0.0, {axis: 1 - DEMO.units(axis) / SMOLLM2.units(axis) for axis in axes}
    for step in range(steps):
        asked = {
            axis: scheduled_sparsity(step, start=0.0, target=ends[axis], warmup_steps=round(warmup * steps))
            for axis in axes
        }
        exact = None
        if method == "exact":
            kept = {axis: (1 - asked[axis]) * SMOLLM2.units(axis) for axis in axes}
            exact = ExactSize(
                kept=kept, sharpness=sharpness_at(step / steps, start=1.0, final=4.0), noise=1.0
            )
        state = gates(keyed_uniform(SMOLLM2, axes, key=(0, step, 0)), exact=exact)
        slopes = {axis: price[axis] * (1 + 3 * torch.randn_like(price[axis])) for axis in axes}
        loss = sum((slopes[axis] * (1 - state.values[axis])).sum() for axis in axes)
        if multipliers is not None:
            loss = loss + multipliers(state.sparsity, asked).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        schedule.step()
        gates.project()
        over = max(over, max(float(state.sparsity[axis].detach().mean()) - ends[axis] for axis in axes))
    off = max(abs(float(1 - state.sparsity[axis].detach().mean()) / (1 - ends[axis]) - 1) for axis in axes)
    return {"overshoot": over, "worst_axis_at_end": off}


def games() -> Iterator[dict[str, object]]:
    """100 steps, warm-up over half of them; units that are cheap (2 nats for all of an axis) and dear (30)."""
    played: list[tuple[str, tuple[float, float], float]] = [
        *(("paper", rates, 0.0) for rates in ((0.5, 0.5), (0.1, 0.1), (0.05, 0.1), (0.5, 1.0))),
        ("stiff", (0.2, 0.05), 300.0),
        ("stiff", (0.5, 0.1), 3000.0),
        ("exact", (0.1, 0.0), 0.0),
    ]
    for cost in (2.0, 30.0):
        for method, rates, second in played:
            found = game(method, steps=100, rates=rates, second=second, cost=cost, warmup=0.5)
            yield {"method": method, "rates": rates, "second": second, "cost": cost, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--game", action="store_true")
    parser.add_argument("--methods", nargs="*", default=tuple(METHODS))
    parser.add_argument("--lengths", nargs="*", type=int, default=LENGTHS)
    options = parser.parse_args()
    if options.game:
        print(json.dumps({"game": list(games()), "torch": torch.__version__}))
        return
    toy = Toy(options.work / "toy")
    if not toy.data.is_dir():
        toy.root.mkdir(parents=True, exist_ok=True)
        write_toy(toy.root)
    results = {}
    for method in options.methods:
        for steps in options.lengths:
            run = real_run(toy, options.work, method, steps)
            results[f"{method}-{steps}"] = found = report(run)
            for axis, numbers in found.items():
                shown = ", ".join(f"{name} {value:.1%}" for name, value in numbers.items())
                print(f"{method} {steps:>4} {axis:<14}{shown}", file=sys.stderr)
    print(json.dumps({"runs": results, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
