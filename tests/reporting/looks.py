"""Pages of all kinds, written, timed and looked at in a browser: ``python -m tests.reporting.looks``.

Those of runs, of a ranking, and of the pictures of a model card.

One JSON line for each: bytes, seconds, and what the browser found at 1280 and 390 pixels on light and dark paper.
Pictures and a print of each stay in the folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from shear_lit.commands.run_reading import read_run
from shear_lit.ranking.criteria import criteria_by_axis
from shear_lit.ranking.measuring import Measured
from shear_lit.ranking.scores import Origin
from shear_lit.reporting.card_pictures import (
    LOSS_PICTURE,
    SHAPE_PICTURE,
    loss_picture_file,
    shape_picture_file,
)
from shear_lit.reporting.ranking_page import ranking_page
from shear_lit.theory.shape import Axis, ModelShape
from tests.reporting.shown_runs import LARGE, Shown

RUNS = {
    "one step": Shown(steps=1, taken=1, every=1),
    "3,200 steps": Shown(steps=3200, taken=3200, every=1),
    "stopped": Shown(taken=20),
    "running": Shown(taken=20, running=True),
    "70B": Shown(source=LARGE),
    "one domain": Shown(domains=("all",)),
    "40 domains": Shown(domains=tuple(f"domain-{number:02}" for number in range(40))),
    "no pruning": Shown(prunes=False),
}
MOST_BYTES, MOST_SECONDS = 3 * 1024**2, 10.0
BROWSER = Path(__file__).parent / "browser.mjs"


def report(places, page):
    """Write a page in a process of its own; its CPU seconds, which other processes do not lengthen."""
    command = [sys.executable, "-m", "shear_lit", "report", *map(str, places), f"--output={page}"]
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def looked_at(page, node):
    found = subprocess.run(
        ["node", str(BROWSER), str(page), str(page.with_suffix(""))],
        cwd=node,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(found.stdout)


def ranking(page):
    """A page of scores of all axes of a model of 30 blocks of three KV heads."""
    random = torch.Generator().manual_seed(0)
    shape = ModelShape(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536)
    found = {axis: torch.rand(shape.gate_shape(axis), generator=random) for axis in Axis}
    origin = Origin(
        source="org/model",
        source_fingerprint="f" * 64,
        source_shape=shape,
        criterion="default",
        data_fingerprint="d" * 64,
        sequences=80,
        tokens=40960,
    )
    halves = ({axis: values + 0.1 for axis, values in found.items()}, found)
    page.write_text(
        ranking_page(Measured(importance=found, halves=halves), criteria_by_axis("default"), origin),
        encoding="utf-8",
    )


def card_pictures(place, page):
    """The pictures of a card, as a page shows them."""
    run = read_run(place)
    references = {domain: run.reference(domain) for domain in run.domains}
    files = {
        SHAPE_PICTURE: shape_picture_file(run.source_shape, run.cut),
        LOSS_PICTURE: loss_picture_file(run.series, references),
    }
    shown = ""
    for name, content in files.items():
        picture = page.with_name(f"{page.stem}-{name}")
        picture.write_text(content, encoding="utf-8")
        shown += f'<p><img src="{picture.name}" alt="{name}" style="max-width:100%"></p>'
    page.write_text(
        f'<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Card</title>'
        f"<style>:root{{color-scheme:light dark}}</style><main><h1>Pictures of a card</h1>{shown}</main></html>"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--node", type=Path, help="folder of an npm install of the browser; none: pages are not opened"
    )
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="directories of real runs")
    asked = parser.parse_args()
    work = asked.work.resolve() / time.strftime("%Y%m%d-%H%M%S")
    places = {name: [shown.write(work / name.replace(" ", "-"))] for name, shown in RUNS.items()}
    places["two runs"] = [places["stopped"][0], places["no pruning"][0]]
    places |= {str(place): [place] for place in asked.also}
    bad = 0
    others = {"ranking": ranking, "card": partial(card_pictures, places["3,200 steps"][0])}
    for name, directories in [*places.items(), *((name, None) for name in others)]:
        page = work / f"page-{name.replace(' ', '-').replace('/', '-')}.html"
        seconds = 0.0
        if directories is None:
            others[name](page)
        else:
            seconds = report(directories, page)
        line = {"run": name, "bytes": page.stat().st_size, "cpu_seconds": round(seconds, 2)}
        faults = [
            kind for kind, most in (("bytes", MOST_BYTES), ("cpu_seconds", MOST_SECONDS)) if line[kind] > most
        ]
        if asked.node is not None:
            views = looked_at(page, asked.node)
            faults += [f"{view}: {kinds}" for view, kinds in views.items() if kinds]
        bad += len(faults)
        print(json.dumps(line | {"faults": faults}), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
