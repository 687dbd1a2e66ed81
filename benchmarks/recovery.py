"""What recovers a cut best at equal tokens: text or teacher, repaired or not, gates that learn or a ranking.

    python benchmarks/recovery.py smollm2 --work runs/recovery          # all cells of a table; stopped, it goes on
    python benchmarks/recovery.py small   --work runs/recovery --small runs/small

``smollm2``: the demo's source, shape, text and batches (512 tokens a step); ``rates``: the same, learning rates and
text for the repair. ``small``: the source of benchmarks/small_source.py, which must be there: kinds of divergence,
temperatures, a second budget. A cell cuts the source (by a ranking that is the seed's), repairs the cut or not, and
trains it. ``exact`` and ``gradual`` learn gates for the first third of the steps, from the ranked cut, repaired, or
from the whole model. ``falls``: more ways to learn them, on the small source (benchmarks/falls.py), and the share of
units that they keep and the ranking does not. Each cell is a line of <work>/<table>.jsonl: losses by domain on
held-out text, nats per token.
"""

import argparse
import gc
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cells import run_cells
from demo_inputs import write_demo_inputs
from falls import LEARNED, switches
from machine import machine
from repair import DEMO_SHAPE, SMALL_SHAPE
from shear_lit import cli
from shear_lit.commands.demo.texts import DOMAINS
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.evaluation.domain_loss import mean_loss
from shear_lit.pruning.artefact import gates_in, read_kept
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.run_checkpoints import latest_checkpoint
from small_source import PROPORTIONS

TEXT, TEACHER, BOTH = (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)
"""Weights of divergence and cross-entropy."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to recover."""

    way: str = "ranked"
    """``ranked``, ``random``, or one that learns its gates (``falls.LEARNED``)."""
    repair: int = 30_720
    """Tokens to repair the cut on; 0: not."""
    learns: tuple[float, float] = TEACHER
    kind: str = "forward_kl"
    temperature: float = 1.0
    steps: int = 120
    rate: float = 5e-4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Level:
    """A source and what all its cells share."""

    target: ModelShape
    proportions: Mapping[str, float]
    batch: int
    evaluated: int
    sequence_length: int = 128

    def tokens(self, steps: int) -> int:
        return steps * self.batch * self.sequence_length


SMOLLM2 = Level(target=DEMO_SHAPE, proportions=dict.fromkeys(DOMAINS, 0.2), batch=4, evaluated=16)
SMALL = Level(target=SMALL_SHAPE, proportions=PROPORTIONS, batch=16, evaluated=64)
SMALL_RATE = 1e-3

TABLES: dict[str, tuple[Level, list[Cell]]] = {
    "smollm2": (
        SMOLLM2,
        [
            *(
                Cell(learns=learns, repair=repair)
                for learns in (TEACHER, TEXT, BOTH)
                for repair in (30_720, 0)
            ),
            Cell(way="random"),
            Cell(way="exact"),
            Cell(way="gradual"),
            *(Cell(learns=learns, seed=seed) for learns in (TEACHER, BOTH, TEXT) for seed in (1, 2)),
            *(Cell(way=way, seed=seed) for way in ("exact", "gradual") for seed in (1, 2)),
            Cell(way="random", seed=1),
        ],
    ),
    "rates": (
        SMOLLM2,
        [
            *(Cell(rate=rate) for rate in (1e-3, 3e-4)),
            *(Cell(repair=61_440, steps=steps) for steps in (60, 80, 120)),
            Cell(repair=61_440, steps=60, rate=1e-3),
            *(Cell(repair=0, steps=steps) for steps in (20, 40, 80)),  # beside a repair on the same tokens
        ],
    ),
    "small": (
        SMALL,
        [
            *(
                Cell(learns=learns, rate=SMALL_RATE, seed=seed, steps=steps)
                for steps in (120, 480)
                for seed in range(3)
                for learns in (TEACHER, BOTH, TEXT)
            ),
            *(
                Cell(kind=kind, temperature=temperature, rate=SMALL_RATE, seed=seed)
                for seed in range(3)
                for kind, temperature in (
                    ("reverse_kl", 1.0),
                    ("jensen_shannon", 1.0),
                    ("forward_kl", 2.0),
                    ("forward_kl", 4.0),
                )
            ),
            *(
                Cell(way=way, rate=SMALL_RATE, seed=seed, steps=480)
                for seed in range(3)
                for way in ("exact", "gradual", "random")
            ),
        ],
    ),
    "falls": (
        SMALL,
        [
            Cell(way=way, learns=BOTH, rate=SMALL_RATE, seed=seed, steps=480)
            for seed in range(3)
            for way in ("ranked", *LEARNED)
        ],
    ),
}


class Bench:
    """A source, its text, and what is made of them."""

    def __init__(self, level: Level, source: Path, data: Path, work: Path, accelerator: str) -> None:
        self.level, self.source, self.data, self.work = level, source, data, work
        self.accelerator: Any = accelerator

    def scores(self, cell: Cell) -> Path:
        """Of the ranking that is the seed's."""
        criterion: Any = "random" if cell.way == "random" else "default"
        file = self.work / f"{criterion}-{cell.seed}" / "scores.safetensors"
        if not file.exists():
            options: dict[str, Any] = (
                {} if criterion == "random" else {"data": str(self.data), "sample": cell.seed}
            )
            rank(str(self.source), str(file), criterion, seed=cell.seed, device=self.accelerator, **options)
        return file

    def cut(self, cell: Cell) -> Path:
        """The ranked cut, repaired or not."""
        output = self.scores(cell).parent / f"cut-{cell.repair}"
        if not output.exists():
            repair: dict[str, Any] = {}
            if cell.repair:
                repair = {"repair": str(self.data), "repair_tokens": cell.repair, "device": self.accelerator}
            export(gates=str(self.scores(cell)), target=self.level.target, output=str(output), **repair)
        return output

    def fit(
        self, cell: Cell, run: Path, source: Path, split: str, steps: int, more: Mapping[str, Any]
    ) -> Path:
        """Train, and export what came out."""
        shutil.rmtree(run, ignore_errors=True)
        flags = {
            "seed_everything": cell.seed,
            "trainer.default_root_dir": run,
            "trainer.accelerator": self.accelerator,
            "trainer.devices": 1,
            "trainer.max_steps": steps,
            "trainer.enable_progress_bar": "false",
            "model.source": source,
            "model.optimizer.warmup_steps": max(1, steps // 10),
            "model.optimizer.weights_learning_rate": cell.rate,
            "data.directory": self.data,
            "data.split": split,
            "data.seed": cell.seed,
            "data.global_batch": self.level.batch,
            "data.micro_batch": self.level.batch,
            "data.validation_sequences": 1,
            "data.mixture.proportions": json.dumps(dict(self.level.proportions)),
            "data.mixture.rule": "static",
            "data.mixture.update_every_steps": steps,
            "checkpoint.every_steps": steps,
            "checkpoint.keep": 1,
            **self.teaching(cell),
            **more,
        }
        cli.main(["fit", *(f"--{key}={value}" for key, value in flags.items())])
        gc.collect()
        export(str(latest_checkpoint(run)), str(run / "model"))
        return run / "model"

    def teaching(self, cell: Cell) -> dict[str, Any]:
        divergence, language = cell.learns
        if not divergence:
            return {}
        return {
            "model.distillation.teacher": self.source,
            "model.distillation.weight": divergence,
            "model.distillation.language_weight": language,
            "model.distillation.objective": cell.kind,
            "model.distillation.temperature": cell.temperature,
        }

    def losses(self, model: Path) -> dict[str, float]:
        found = evaluate(str(model), str(self.data), self.level.evaluated, 8, device=self.accelerator)
        return dict(found.losses)

    def run(self, cell: Cell) -> dict[str, Any]:
        """Cut, repair and train."""
        found: dict[str, Any] = {}
        cut = self.cut(cell)
        found["cut"] = mean_loss(self.losses(cut))
        started, run = time.monotonic(), self.work / f"run-{id(self)}"
        if cell.way in ("ranked", "random"):
            model = self.fit(cell, run, cut, "pretrain", cell.steps, {"model.pruning": "null"})
        else:
            first = self.fit(cell, run, self.source, "prune", cell.steps // 3, self.gates(cell))
            found["units_changed"] = changed(gates_in(cut), gates_in(first))
            found["stage1"] = mean_loss(self.losses(first))
            rest = cell.steps - cell.steps // 3
            model = self.fit(
                cell, run.with_name(f"{run.name}-2"), first, "pretrain", rest, {"model.pruning": "null"}
            )
        found["losses"] = self.losses(model)
        found["seconds"] = round(time.monotonic() - started, 1)
        return {"loss": mean_loss(found["losses"]), **found}

    def gates(self, cell: Cell) -> dict[str, Any]:
        """Gates of an exact size, in the order of the ranking at first."""
        target = {f"model.pruning.target.{axis}": size for axis, size in self.level.target.to_dict().items()}
        return {
            **target,
            "model.pruning.constraint": "exact",
            "model.pruning.initial_scores": self.scores(cell),
            **switches(cell.way, steps=cell.steps, repair=cell.repair),
        }


def changed(ranked: Path, learned: Path) -> float:
    """The share of units kept in the first file of gates that the second does not keep, over layers that both have."""
    first, second = read_kept(str(ranked)), read_kept(str(learned))
    assert first is not None and second is not None
    gone = total = 0
    for axis in Axis:
        ours, theirs = (getattr(kept, axis.value) for kept in (first, second))
        rows = zip(ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1]), strict=True)
        for one, other in rows:
            gone += len(one) - int(torch.isin(one, other).sum())
            total += len(one)
    return gone / total


def said(line: dict[str, Any]) -> str:
    """What is printed of a cell."""
    return f"{line['loss']:.4f} from {line['cut']:.4f}  {line['seconds']:6.1f} s  {line['cell']}"


def table(level: Level, lines: list[dict[str, Any]], source: float) -> str:
    """The cells in Markdown, seeds together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(json.dumps({**line["cell"], "seed": None}), []).append(line)
    rows = [
        "| start | repaired on | learns from | rate | trained on | cut | recovered | beyond the source | other units |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for key, same in groups.items():
        cell = json.loads(key)
        divergence, language = cell["learns"]
        learns = {(1, 0): "teacher", (1, 1): "both", (0, 1): "text"}.get(
            (divergence, language), cell["learns"]
        )
        if divergence and (cell["kind"], cell["temperature"]) != ("forward_kl", 1.0):
            learns = f"{learns}, {cell['kind']}, T {cell['temperature']:g}"
        losses = [line["loss"] for line in same]
        error = f" ± {statistics.stdev(losses) / len(losses) ** 0.5:.3f}" if len(losses) > 1 else ""
        cut, mean = statistics.mean(line["cut"] for line in same), statistics.mean(losses)
        moved = [line["units_changed"] for line in same if "units_changed" in line]
        other = f"{statistics.mean(moved):.1%}" if moved else ""
        rows.append(
            f"| {cell['way']} | {cell['repair']:,} | {learns} | {cell['rate']:g} | {level.tokens(cell['steps']):,} | "
            f"{cut:.3f} | {mean:.3f}{error} ({len(losses)}) | {mean - source:+.3f} | {other} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Run what is left of a table, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=sorted(TABLES))
    parser.add_argument("--work", type=Path, default=Path("runs/recovery"))
    parser.add_argument("--small", type=Path, default=Path("runs/small"))
    parser.add_argument("--accelerator", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", type=int, nargs="*", help="only these cells, by number")
    options = parser.parse_args()
    level, cells = TABLES[options.table]
    of_small = options.table in ("small", "falls")
    if of_small:
        source, data = options.small / "source", options.small / "data"
    else:
        source, data = write_demo_inputs(options.work)
    cells = [cells[number] for number in options.only] if options.only else cells
    folder = options.work / "small" if of_small else options.work
    bench = Bench(level, source, data, folder, options.accelerator)
    file = options.work / f"{options.table}.jsonl"
    run_cells(bench.run, cells, file, said)
    own = mean_loss(bench.losses(source))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    print(f"source {own:.3f}\n\n{table(level, lines, own)}\n\n{json.dumps(machine())}")


if __name__ == "__main__":
    main()
