"""How long until a person reads something: CPU seconds of help, refusals and the light commands, before and after.

Each command line runs in a process of its own, in turns with the other tree where one is named; prints one JSON line.

    python benchmarks/start_up.py [--before SRC_OF_AN_EARLIER_VERSION] [--repeats 5]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIGHT = ("prepare", "data", "export", "evaluate", "rank", "gates", "mend", "verify")
SMALL = ("--sequence_length=24", "--workers=1")
LINES = {
    "--help": ["--help"],
    "unknown command": ["prunee"],
    **{
        f"{name} --help": [name, "--help"]
        for name in ("prepare", "data", "export", "evaluate", "rank", "gates", "mend", "verify")
    },
    "a mistyped key": ["evaluate", "--modle=x"],
    "data DIR": ["data", "{data}"],
    "prepare": [
        "prepare",
        "--domains.law={raw}",
        "--tokenizer={model}",
        "--sequence_length=24",
        "--workers=1",
        "--output={out}",
    ],
    "prepare --check DIR": ["prepare", "--check={data}"],
    "fit --help": ["fit", "--help"],
}


def cpu_seconds(source: Path, words: list[str]) -> float:
    """User and system seconds of one run, with those of the processes that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "shear_lit", *words], env=environment, capture_output=True, text=True
    )
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{words}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="src of an earlier version")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    trees = {"after": ROOT / "src"} | ({"before": options.before} if options.before else {})
    sys.path.insert(0, str(ROOT))
    from tests.toy import write_toy

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "toy").mkdir()
        toy = write_toy(place / "toy")
        names = {"data": toy.data, "raw": toy.root / "law.jsonl", "model": toy.source()}
        found: dict[str, dict[str, list[float]]] = {line: {tree: [] for tree in trees} for line in LINES}
        for repeat in range(options.repeats + 1):
            for line, words in LINES.items():
                for tree, source in trees.items():
                    out = place / f"{tree}-{repeat}"
                    seconds = cpu_seconds(source, [word.format(**names, out=out) for word in words])
                    if repeat:  # the first one fills the caches of the disk
                        found[line][tree].append(seconds)
    print(
        json.dumps(
            {
                "load": os.getloadavg()[0],
                "cpu_seconds": {
                    line: {
                        tree: {
                            "median": round(statistics.median(values), 2),
                            "least": round(min(values), 2),
                            "most": round(max(values), 2),
                        }
                        for tree, values in by_tree.items()
                    }
                    for line, by_tree in found.items()
                },
            }
        )
    )


if __name__ == "__main__":
    main()
