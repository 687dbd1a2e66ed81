"""Cells of a table, each a line of a file: a benchmark that was stopped goes on with those that are not there yet."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any


def run_cells(
    run: Callable[[Any], dict[str, Any]],
    cells: Iterable[Any],
    file: Path,
    said: Callable[[dict[str, Any]], str],
) -> None:
    """Run what ``file`` does not have yet; ``cells`` are dataclasses, and ``said`` is what is printed of a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line)["cell"] for line in file.read_text().splitlines()] if file.exists() else []
    for cell in cells:
        key = json.loads(json.dumps(asdict(cell)))
        if key in done:
            continue
        line = {"cell": key, **run(cell)}
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(said(line), flush=True)
