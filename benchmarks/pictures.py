"""What do pictures for loggers cost? CPU time of one validation's pictures, and its share of the steps between two.

``python benchmarks/pictures.py --shape demo --step_seconds 5.2 --every_steps 20``: the seconds of a step are those that
a run of that model reports (tokens of a step over ``speed/tokens_per_second``). Prints one JSON line.
"""

import argparse
import json
import statistics
import tempfile
import time

import torch
from torch.utils.tensorboard import SummaryWriter

from shear_lit.reporting.pictures import gates_picture, mixture_picture, shape_picture
from shear_lit.theory.shape import Axis, ModelShape

SHAPES = {
    "demo": ModelShape(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536),
    "7B": ModelShape(layers=32, hidden=4096, query_heads=32, kv_heads=32, intermediate=11008),
    "70B": ModelShape(layers=80, hidden=8192, query_heads=64, kv_heads=8, intermediate=28672),
}
CHANGES = [(step, {"code": 0.25, "law": 0.25, "wiki": 0.5}) for step in range(0, 3200, 50)]


def seconds_of(shape, chances, writer, step):
    began = time.process_time()
    for axis, rows in chances.items():
        writer.add_image(f"gates/{axis.value}", gates_picture(axis, rows), step, dataformats="HWC")
    writer.add_image("shape/expected", shape_picture(shape, chances), step, dataformats="HWC")
    writer.add_image("mixture/so_far", mixture_picture(CHANGES, 3200), step, dataformats="HWC")
    return time.process_time() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), required=True)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--step_seconds", type=float, required=True)
    parser.add_argument("--every_steps", type=int, required=True)
    asked = parser.parse_args()
    shape, random = SHAPES[asked.shape], torch.Generator().manual_seed(0)
    chances = {axis: torch.rand(shape.gate_shape(axis), generator=random) for axis in Axis}
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        found = sorted(seconds_of(shape, chances, writer, step) for step in range(asked.repeats))
    whole = asked.step_seconds * asked.every_steps
    print(
        json.dumps(
            {
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
        )
    )


if __name__ == "__main__":
    main()
