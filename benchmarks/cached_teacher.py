"""What does a cut lose that learns from a cache of its teacher, instead of the teacher itself?

    python benchmarks/cached_teacher.py --small runs/small          # stopped, it goes on

The source of benchmarks/small_source.py (2.7 M parameters, 2,048 tokens), cut and repaired as in benchmarks/recovery.py
does it, learns from the teacher alone for 40 steps of 2,048 tokens. ``gradient``: how far the first step's gradient is
from that beside the teacher, as a share of its length; ``loss``: after the steps, on held-out text, in nats per token.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cells import run_cells
from machine import machine
from recovery import SMALL, SMALL_RATE, Bench, Cell
from shear_lit.commands.teach import teach
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.batch import model_inputs
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.taught.files import TeacherCache, bytes_per_token
from shear_lit.data.taught.record import read_record
from shear_lit.models.huggingface import read_model
from shear_lit.theory.losses import Weights
from shear_lit.training.distillation import step_sums

DRAWN = 320
"""Sequences of a domain: more than 40 steps draw of any."""


@dataclass(frozen=True, kw_only=True)
class CachedCell(Cell):
    """One way to ask a teacher."""

    rate: float = SMALL_RATE
    steps: int = 40
    method: str = "online"
    """Or what a cache keeps: ``top_k`` or ``sampled``."""
    kept: int = 0
    layers_weight: float = 0.0


CELLS = [
    CachedCell(seed=seed, **options)
    for seed in range(3)
    for options in (
        {},
        {"method": "sampled", "kept": 64},
        {"method": "top_k", "kept": 64},
        {"method": "sampled", "kept": 16},
        {"method": "top_k", "kept": 16},
        {"layers_weight": 1.0},
    )
]


class CachedBench(Bench):
    """The same, with a cache for each cell that has one."""

    def cache(self, cell: CachedCell) -> Path:
        """A cache of what the cell draws; made the first time."""
        folder = self.work / f"cache-{cell.method}-{cell.kept}-{cell.seed}"
        options: dict[str, Any] = {"method": cell.method, "kept": cell.kept, "seed": cell.seed}
        teach(
            str(self.source),
            str(self.data),
            str(folder),
            sequences_per_domain=DRAWN,
            device=self.accelerator,
            micro_batch=16,
            **options,
        )
        return folder

    def teaching(self, cell: Any) -> dict[str, Any]:
        found = {**super().teaching(cell), "model.distillation.layers_weight": cell.layers_weight}
        return found if cell.method == "online" else {**found, "model.distillation.cache": self.cache(cell)}

    def run(self, cell: Any) -> dict[str, Any]:
        """Teach, compare the first gradient, and train."""
        if cell.method == "online":
            return super().run(cell)
        started = time.monotonic()
        record = read_record(self.cache(cell))
        seconds = time.monotonic() - started
        return {
            **super().run(cell),
            "teach_seconds": round(seconds, 1),
            "bytes_per_token": bytes_per_token(record),
            "gradient": self.gradient_difference(cell, TeacherCache(record, read_manifest(self.data))),
        }

    def gradient_difference(self, cell: CachedCell, cache: TeacherCache) -> float:
        """Of 16 sequences of the first domain."""
        keys = [(0, int(number)) for number in np.flatnonzero(cache.has(0, np.arange(DRAWN)))[:16]]
        inputs = model_inputs(SequenceStore(self.data, "pretrain").read(keys))
        model = read_model(str(self.cut(cell)), dtype=torch.float32).train()
        weights = Weights(language=0.0, divergence=1.0)

        def gradient(teacher: Any) -> Tensor:
            model.zero_grad()
            step_sums(model, inputs, weights, teacher).total.backward()
            return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])

        beside = SimpleNamespace(
            model=read_model(str(self.source), dtype=torch.float32).requires_grad_(requires_grad=False)
        )
        online, cached = gradient(beside), gradient(cache.read(keys))
        return float((cached - online).norm() / online.norm())


def said(line: dict[str, Any]) -> str:
    cell = line["cell"]
    return f"{line['loss']:.4f}  {cell['method']} {cell['kept']} layers {cell['layers_weight']} seed {cell['seed']}"


def table(lines: list[dict[str, Any]]) -> str:
    """The cells in Markdown, seeds together."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        cell = line["cell"]
        groups.setdefault((cell["method"], cell["kept"], cell["layers_weight"]), []).append(line)
    rows = ["| learns from | bytes per token | first gradient | recovered |", "|---|--:|--:|--:|"]
    for (method, kept, layers), same in groups.items():
        name = (
            "the teacher" + (f", streams {layers:g}" if layers else "")
            if method == "online"
            else f"`{method}` of {kept}"
        )
        losses = [line["loss"] for line in same]
        error = f" ± {statistics.stdev(losses) / len(losses) ** 0.5:.3f}" if len(losses) > 1 else ""
        apart = "" if method == "online" else f"{statistics.mean(line['gradient'] for line in same):.3f}"
        size = "" if method == "online" else f"{same[0]['bytes_per_token']:.0f}"
        rows.append(f"| {name} | {size} | {apart} | {statistics.mean(losses):.3f}{error} ({len(losses)}) |")
    return "\n".join(rows)


def main() -> None:
    """Run what is left, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/cached-teacher"))
    parser.add_argument("--small", type=Path, default=Path("runs/small"))
    parser.add_argument("--accelerator", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    file = options.work / "cells.jsonl"
    bench = CachedBench(
        SMALL, options.small / "source", options.small / "data", options.work, options.accelerator
    )
    run_cells(bench.run, CELLS, file, said)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    print(f"{table(lines)}\n\n{json.dumps(machine())}")


if __name__ == "__main__":
    main()
