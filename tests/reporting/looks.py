"""Pages of all kinds of runs, written, timed and looked at in a browser: ``python -m tests.reporting.looks``.

One JSON line for each: bytes, seconds, and what the browser found at 1280 and 390 pixels on light and dark paper.
Pictures and a print of each stay in the folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.reporting.shown_runs import LARGE, Shown

RUNS = {
    "one step": Shown(steps=1, taken=1, every=1),
    "3,200 steps": Shown(steps=3200, taken=3200, every=1),
    "stopped": Shown(taken=20),
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
    for name, directories in places.items():
        page = work / f"page-{name.replace(' ', '-').replace('/', '-')}.html"
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
