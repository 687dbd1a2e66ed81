"""Directories of runs that were never trained: what a page has to be able to show, at any size."""

import csv
import json
import math
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from shear_lit.data.order.mixture_log import MixtureChange, MixtureLog, write_mixture_log
from shear_lit.pruning.artefact import gates_file
from shear_lit.ranking.scores import LEARNED, Origin
from shear_lit.theory.shape import Axis, ModelShape

SMALL = ModelShape(layers=6, hidden=32, query_heads=8, kv_heads=4, intermediate=96)
LARGE = ModelShape(layers=80, hidden=8192, query_heads=64, kv_heads=8, intermediate=28672)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One run."""

    steps: int = 40
    taken: int = 40
    every: int = 10
    domains: tuple[str, ...] = ("code", "law", "wiki")
    source: ModelShape = SMALL
    prunes: bool = True
    seed: int = 0
    running: bool = False
    """Whether this process says that it takes its steps."""

    @property
    def target(self):
        half = {name: size // 2 for name, size in self.source.to_dict().items()}
        return ModelShape(**half)

    def write(self, place):
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(yaml.safe_dump(self.config()))
        with (place / "metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "name", "value"), *self.rows()])
        log = MixtureLog(
            domains=self.domains, global_batch=4, sequence_length=16, updates=tuple(self.changes())
        )
        write_mixture_log(place / "mixture.json", log)
        facts = {
            "packages": {"torch": "2"},
            "python": "3.11",
            "commit": "c" * 40,
            "data": "d" * 64,
            "world_size": 2,
        }
        source = {"name": "org/model", "commit": None, "fingerprint": "f" * 64}
        (place / "provenance.json").write_text(json.dumps(facts | {"source": source}))
        if self.prunes:
            (place / "gates").mkdir()
            for step in self.reported():
                (place / "gates" / f"step={step:06d}.safetensors").write_bytes(self.gates(step))
        if self.running:
            self.mark(place)
        return place

    def mark(self, place):
        """Leave what a run leaves that goes on: its mark, and a line that is half written."""
        mark = {"process": os.getpid(), "host": socket.gethostname(), "processes_of": "", "token": "t"}
        if (processes := Path("/proc/self/ns/pid")).is_symlink():
            mark["processes_of"] = str(processes.readlink())
        (place / "running.json").write_text(json.dumps(mark))
        with (place / "metrics.csv").open("a") as file:
            file.write(f"{self.taken + 1},loss/language,3.")

    def reported(self):
        """Steps of three validations at most."""
        return sorted({0, self.taken // 2, self.taken})

    def config(self):
        pruning = {"target": self.target.to_dict(), "constraint": "lagrangian"} if self.prunes else None
        return {
            "trainer": {"max_steps": self.steps},
            "model": {"source": "org/model", "pruning": pruning, "seed": self.seed},
        }

    def gates(self, step):
        """More units are undecided at first than at last."""
        random = torch.Generator().manual_seed(self.seed)
        values = {
            axis: torch.randn(self.source.gate_shape(axis), generator=random) * (1 + 5 * step / self.steps)
            for axis in Axis
        }
        origin = Origin(
            source="org/model", source_fingerprint="f" * 64, source_shape=self.source, criterion=LEARNED
        )
        return gates_file(values, origin)

    def changes(self):
        for number, step in enumerate(self.reported()):
            raw = {name: 1 + ((place + number) % 5) for place, name in enumerate(self.domains)}
            total = sum(raw.values())
            weights = {name: part / total for name, part in raw.items()}
            yield MixtureChange(step=step, weights=weights, losses=None)

    def rows(self):
        for step in range(self.every, self.taken + 1, self.every):
            yield from ((step, name, repr(value)) for name, value in self.at_step(step).items())
        for step in self.reported():
            losses = {name: 3 + place / 10 - step / self.steps for place, name in enumerate(self.domains)}
            for name, loss in losses.items():
                yield step, f"loss/validation/{name}", repr(loss)
                yield step, f"loss/lag/{name}", repr(loss - 2.15)
            yield step, "loss/validation/mean", repr(sum(losses.values()) / len(losses))

    def at_step(self, step):
        share = step / self.steps
        found = {
            "loss/language": 4 - share + 0.1 * math.sin(step),
            "gradient/norm": 1 + math.cos(step) / 2,
            "speed/tokens_per_second": 1000 + 10 * math.sin(step),
            "speed/seconds_waiting_for_data": 0.001,
            "memory/peak_gib": 3.25,
            "run/tokens": float(step * 64),
            "run/device_seconds": step * 2.5,
            "learning_rate/weights": 1e-4 * (1 - share),
        }
        if self.prunes:
            for name, size in self.source.to_dict().items():
                found[f"size/{name}/target"] = size * (1 - share / 2)
                found[f"size/{name}/expected"] = size * (1 - share / 2.1)
                found |= {
                    f"multipliers/{name}/{order}": -share * n for n, order in ((1, "first"), (2, "second"))
                }
            found["loss/size_penalty"] = share**2
        return found
