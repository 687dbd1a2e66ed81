"""What do pictures for loggers cost?

``python benchmarks/pictures.py cost --shape demo --step_seconds 5.2 --every_steps 20``: CPU time of one validation's
pictures, and its share of the steps between two; the seconds of a step are those that a run of that model reports
(tokens of a step over ``speed/tokens_per_second``).

``python benchmarks/pictures.py pairs --pairs 20``: the same short run with pictures and without, one after the other,
which comes first alternates; the ratio of the CPU time from the first step to the end, with its 95 % interval. CPU time
is that of all threads of the process, so that other work on the machine does not matter much.

Prints one JSON line.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from torch.utils.tensorboard import SummaryWriter

from machine import machine
from shear_lit.reporting.pictures import gates_picture, mixture_picture, shape_picture
from shear_lit.theory.shape import Axis, ModelShape

SHAPES = {
    "demo": ModelShape(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536),
    "7B": ModelShape(layers=32, hidden=4096, query_heads=32, kv_heads=32, intermediate=11008),
    "70B": ModelShape(layers=80, hidden=8192, query_heads=64, kv_heads=8, intermediate=28672),
}
MODEL = dict(hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8, kv_heads=4)
TARGET = dict(layers=10, hidden=384, query_heads=4, kv_heads=2, intermediate=1024)
T_95 = 2.09
"""Of 20 pairs."""
CHANGES = [(step, {"code": 0.25, "law": 0.25, "wiki": 0.5}) for step in range(0, 3200, 50)]


def seconds_of(shape, chances, writer, step):
    began = time.process_time()
    for axis, rows in chances.items():
        writer.add_image(f"gates/{axis.value}", gates_picture(axis, rows), step, dataformats="HWC")
    writer.add_image("shape/expected", shape_picture(shape, chances), step, dataformats="HWC")
    writer.add_image("mixture/so_far", mixture_picture(CHANGES, 3200), step, dataformats="HWC")
    return time.process_time() - began


def cost(asked):
    shape, random = SHAPES[asked.shape], torch.Generator().manual_seed(0)
    chances = {axis: torch.rand(shape.gate_shape(axis), generator=random) for axis in Axis}
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        found = sorted(seconds_of(shape, chances, writer, step) for step in range(asked.repeats))
    whole = asked.step_seconds * asked.every_steps
    return {
        "shape": asked.shape,
        "repeats": asked.repeats,
        "cpu_seconds_median": round(statistics.median(found), 4),
        "cpu_seconds_5_to_95_percent": [
            round(found[len(found) // 20], 4),
            round(found[-1 - len(found) // 20], 4),
        ],
        "share_of_the_steps_between": round(statistics.median(found) / whole, 6),
        "largest_share": round(found[-1] / whole, 6),
    }


def pairs(asked):
    from tests.toy import trained_tokenizer, write_source, write_toy

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "toy").mkdir()
        toy = write_toy(place / "toy")
        texts = [str(path) for path in (place / "toy").glob("*.jsonl")]
        write_source(place / "source", trained_tokenizer(texts), **MODEL)
        ratios = []
        for pair in range(asked.pairs + 1):
            order = [True, False] if pair % 2 else [False, True]
            found = {
                on: run(toy, place / f"{pair}-{on}", place / "source", asked, pictures=on) for on in order
            }
            if pair:  # the first one warms up
                ratios.append(found[True] / found[False])
    mean, error = statistics.mean(ratios), statistics.stdev(ratios) / math.sqrt(len(ratios))
    return {
        "pairs": len(ratios),
        "steps": asked.steps,
        "every_steps": asked.every_steps,
        "cpu_time_ratio": round(mean, 4),
        "interval_95": [round(mean - T_95 * error, 4), round(mean + T_95 * error, 4)],
        **machine(),
    }


def run(toy, place, source, asked, *, pictures):
    """CPU seconds from before the first step to the end of one run."""
    from shear_lit import cli
    from shear_lit.training.boundary import Boundary
    from shear_lit.training.pictures import Pictures

    seconds = []
    begin, end = Boundary.on_train_start, Boundary.on_train_end

    def on_train_start(self, *given):
        seconds.append(time.process_time())
        begin(self, *given)

    def on_train_end(self, *given):
        end(self, *given)
        seconds.append(time.process_time())

    target = [f"--model.pruning.target.{axis}={size}" for axis, size in TARGET.items()]
    words = [
        *toy.arguments("prune", place)[:2],
        *(f"--model.source={source}", f"--data.directory={toy.data}", f"--trainer.default_root_dir={place}"),
        *(
            f"--trainer.max_steps={asked.steps}",
            f"--data.mixture.update_every_steps={asked.every_steps}",
            *target,
        ),
        f"--checkpoint.every_steps={asked.steps}",
    ]
    nothing = {} if pictures else {name: lambda *given: None for name in ("begin", "show", "end")}
    with (
        mock.patch.object(Boundary, "on_train_start", on_train_start),
        mock.patch.object(Boundary, "on_train_end", on_train_end),
        mock.patch.multiple(Pictures, **nothing) if nothing else mock.patch.dict({}),
    ):
        cli.main(words)
    first, last = seconds
    return last - first


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    ways = parser.add_subparsers(required=True)
    of_cost = ways.add_parser("cost")
    of_cost.add_argument("--shape", choices=list(SHAPES), required=True)
    of_cost.add_argument("--repeats", type=int, default=40)
    of_cost.add_argument("--step_seconds", type=float, required=True)
    of_cost.add_argument("--every_steps", type=int, required=True)
    of_cost.set_defaults(measure=cost)
    of_pairs = ways.add_parser("pairs")
    of_pairs.add_argument("--pairs", type=int, default=20)
    of_pairs.add_argument("--steps", type=int, default=20)
    of_pairs.add_argument("--every_steps", type=int, default=20)
    of_pairs.set_defaults(measure=pairs)
    asked = parser.parse_args()
    print(json.dumps(asked.measure(asked)))


if __name__ == "__main__":
    main()
