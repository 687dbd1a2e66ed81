"""Are the sizes on their targets at the end? Both constraints, the multipliers' remedy off and on, at three lengths.

    python benchmarks/constraint.py --work runs/constraint --seeds 17 18 19 # real runs of the toy model (tests/toy.py)
    python benchmarks/constraint.py --work runs/smollm2 --smollm2           # two of SmolLM2-135M, of 150 steps
    python benchmarks/constraint.py --work runs/game --game                 # the game alone, without a model

Real runs: ``shear-lit fit`` on the toy of the tests (3 layers, hidden 32, 8 heads over 2 KV heads, feed-forward 48, to
2, 24, 4 over 2, 32), with everything but lengths and constraint as configs/toy/prune.yaml has it. For each run: per
axis, the largest distance of its mean from the schedule, of its mean from the target at the end, and of its worst row.
A run that is there already is not repeated. Pictures need `pip install -e '.[benchmarks]'`.

The game: gates of SmolLM2-135M's shape under a made-up linear cost per unit with noise, by the package's own gates,
multipliers, penalty and optimizer groups; no model is run. It is what docs/log.md and deviation D12 speak of.
"""

import argparse
import csv
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from demo_inputs import write_demo_inputs
from machine import machine
from shear_lit import cli
from shear_lit.pruning.constraints import LAGRANGIAN, Exact, SizeConstraint
from shear_lit.pruning.expectation import expected_units
from shear_lit.pruning.gates import Gates, Multipliers
from shear_lit.theory.constraint import scheduled_sparsity
from shear_lit.theory.exact_size import sharpness_at
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import ModelShape, shrinking_axes
from shear_lit.training.checkpoints import read_checkpoint
from shear_lit.training.optimizer import OptimizerSettings, build_optimizer, build_schedule
from shear_lit.training.run_checkpoints import latest_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.toy import Toy, write_toy

LENGTHS = (50, 150, 600)
TARGET = dict(layers=2, hidden=24, query_heads=4, kv_heads=2, intermediate=32)
SMOLLM2 = ModelShape(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536)
DEMO = ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1280)

PARTS = ("off_schedule", "mean_at_end", "worst_row_at_end")
METHODS = {
    "paper": {},
    "stiff": {"model.pruning.second_multiplier_start": "3000"},
    "unsaturated": {
        "model.pruning.second_multiplier_start": "3000",
        "model.pruning.initial_log_alpha": "2",
    },
    "exact": {"model.pruning.constraint": "exact"},
}
"""The multipliers from 0, from a second multiplier of 3,000 (deviation D12) with gates at the top and below it, and
none at all (deviation D13)."""
RATES = {"paper": (0.5, 0.5), "stiff": (0.5, 0.1), "unsaturated": (1.0, 0.1), "exact": (0.03, 0.0)}
"""Learning rates of gates and multipliers."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A source and its data, and what its runs have in common."""

    arguments: Callable[[Path], list[str]]
    """The command line of a run in a directory."""
    target: Mapping[str, int]
    lengths: tuple[int, ...]
    methods: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


def toy_level(work: Path) -> Level:
    """The model and the data of the tests."""
    toy = Toy(work / "toy")
    if not toy.data.is_dir():
        toy.root.mkdir(parents=True, exist_ok=True)
        write_toy(toy.root)
    return Level(
        arguments=lambda run: toy.arguments("prune", run),
        target=TARGET,
        lengths=LENGTHS,
        methods=tuple(METHODS),
        settings={"data.validation_sequences": "1"},
    )


def smollm2_level(work: Path) -> Level:
    """The demo's source, text and target, from all gates at the top."""
    source, data = write_demo_inputs(work)
    config = Path(__file__).parents[1] / "configs" / "prune" / "smollm2-demo.yaml"
    return Level(
        arguments=lambda run: ["fit", f"--config={config}", f"--trainer.default_root_dir={run}"],
        target=DEMO.to_dict(),
        lengths=(150,),
        methods=("stiff", "exact"),
        settings={
            "model.source": str(source),
            "data.directory": str(data),
            "data.global_batch": "2",  # sizes move by steps, not by tokens
            "data.micro_batch": "2",
            "data.mixture.references": "null",
            "data.mixture.rule": "static",
            "model.pruning.initial_gap": "0",
            "model.pruning.second_multiplier_start": "0",
        },
    )


def real_run(level: Level, folder: Path, method: str, steps: int, seed: int) -> Path:
    """One run, with a sparsity warm-up of a fifth of it."""
    run = folder / f"{method}-{steps}-{seed}"
    gates, multipliers = RATES[method]
    flags = {
        **{f"model.pruning.target.{axis}": str(size) for axis, size in level.target.items()},
        **level.settings,
        "seed_everything": str(seed),
        "model.seed": str(seed),
        "data.seed": str(seed),
        "trainer.max_steps": str(steps),
        "trainer.log_every_n_steps": "1",
        "model.pruning.initial_log_alpha": str(math.log(100)),
        "model.pruning.sparsity_warmup_steps": str(steps // 5),
        "model.optimizer.warmup_steps": str(max(1, steps // 20)),
        "model.optimizer.gates_learning_rate": str(gates),
        "model.optimizer.multipliers_learning_rate": str(multipliers),
        "data.mixture.update_every_steps": str(steps),
        "checkpoint.every_steps": str(steps),
        **METHODS[method],
    }
    if not list(run.glob("checkpoints/*")):
        shutil.rmtree(run, ignore_errors=True)
        cli.main([*level.arguments(run), *(f"--{key}={value}" for key, value in flags.items())])
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
    for axis in expected_units(contents.log_alpha, target, contents.facts.constraint):
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
        constraint: SizeConstraint = LAGRANGIAN
        if method == "exact":
            kept = {axis: (1 - asked[axis]) * SMOLLM2.units(axis) for axis in axes}
            constraint = Exact(
                kept=kept, sharpness=sharpness_at(step / steps, start=1.0, final=4.0), noise=1.0
            )
        state = gates(keyed_uniform(SMOLLM2, axes, key=(0, step, 0)), constraint=constraint)
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


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Of every constraint and length, the worst axis of the worst seed."""
    cases: dict[str, list[dict[str, float]]] = {}
    for name, axes in results.items():
        worst = {part: max(numbers[part] for numbers in axes.values()) for part in PARTS}
        cases.setdefault(name.rpartition("-")[0], []).append(worst)
    rows = ["| constraint, steps | seeds | " + " | ".join(PARTS) + " |", "|" + "---|" * (len(PARTS) + 2)]
    for name, seeds in cases.items():
        cells = (f"{max(seed[part] for seed in seeds):.1%}" for part in PARTS)
        rows.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(runs: Mapping[tuple[str, int, int], Path], picture: Path) -> None:
    """Sizes over steps as shares of the target: an axis a row, a length a column, a constraint a line."""
    from matplotlib import pyplot  # of the extra `benchmarks`

    first = min(seed for _, _, seed in runs)
    lengths = sorted({steps for _, steps, _ in runs})
    curves = {(method, steps): curve(run) for (method, steps, seed), run in runs.items() if seed == first}
    axes = list(next(iter(curves.values())))
    figure, grid = pyplot.subplots(
        len(axes), len(lengths), figsize=(4 * len(lengths), 2 * len(axes)), sharey="row", squeeze=False
    )
    for (method, steps), sizes in curves.items():
        for row, axis in enumerate(axes):
            plot, have = grid[row, lengths.index(steps)], [size for size, _ in sizes[axis]]
            plot.plot([size / sizes[axis][-1][1] for size in have], label=method)
            plot.set_ylabel(f"{axis} / target" if not lengths.index(steps) else "")
    for (_, steps), sizes in curves.items():
        for row, axis in enumerate(axes):
            plot = grid[row, lengths.index(steps)]
            # A report after step n has the sizes of step n beside the schedule of step n + 1.
            asked = [size / sizes[axis][-1][1] for _, size in sizes[axis]]
            plot.plot(range(1, len(asked) + 1), asked, "k:", linewidth=1)
            plot.set_xlabel("step" if row == len(axes) - 1 else "")
    grid[0, -1].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--game", action="store_true")
    parser.add_argument("--smollm2", action="store_true", help="the demo's source instead of the toy")
    parser.add_argument("--methods", nargs="*", choices=tuple(METHODS))
    parser.add_argument("--lengths", nargs="*", type=int)
    parser.add_argument("--seeds", nargs="*", type=int, default=(17,))
    parser.add_argument("--picture", type=Path, help="draw the curves of the first seed into this file")
    options = parser.parse_args()
    if options.game:
        print(json.dumps({"game": list(games()), **machine()}))
        return
    level = (smollm2_level if options.smollm2 else toy_level)(options.work)
    runs = {
        (method, steps, seed): real_run(level, options.work, method, steps, seed)
        for method in options.methods or level.methods
        for steps in options.lengths or level.lengths
        for seed in options.seeds
    }
    results = {f"{method}-{steps}-{seed}": report(run) for (method, steps, seed), run in runs.items()}
    print(table(results), file=sys.stderr)
    if options.picture:
        draw(runs, options.picture)
    print(json.dumps({"runs": results, **machine()}))


if __name__ == "__main__":
    main()
