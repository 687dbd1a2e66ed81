"""Golden losses: 20 steps of each kind of run on a two-layer model, as numbers that may not move.

``python -m tests.training.golden`` shows how far losses are from the stored ones; ``--rewrite`` stores them, to be
committed with the reason.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.toy import Toy, write_source, write_toy
from tests.training.forks import run
from tests.training.runs import fit

STORED = Path(__file__).parent / "golden.json"
STEPS = 20
TARGET = dict(layers=1, hidden=24, query_heads=2, kv_heads=1, intermediate=32)
PRUNE = [f"--model.pruning.target.{axis}={size}" for axis, size in TARGET.items()]
KINDS = {
    "pretrain": ("pretrain", []),
    "prune, lagrangian": ("prune", PRUNE),
    "prune, exact": (
        "prune",
        [*PRUNE, "--model.pruning.constraint=exact", "--model.pruning.initial_log_alpha=4.605170185988092"],
    ),
    "prune, ordered": (
        "prune",
        [
            *PRUNE,
            "--model.pruning.initial_gap=3",
            "--model.pruning.initial_log_alpha=4.605170185988092",
            "--data.mixture.update_at_start=true",
        ],
    ),
}
"""The runs by name: their configuration, and what is said besides."""


def measured(toy: Toy, folder: Path, kind: str) -> dict[str, Any]:
    """The losses of every step and validation of one kind of run, and the mixtures that follow from them."""
    stage, flags = KINDS[kind]
    source, tokenizer = folder / "source", AutoTokenizer.from_pretrained(toy.source())
    write_source(source, tokenizer, seed=1, num_hidden_layers=2)
    arguments = [word for word in toy.arguments(stage, folder / "run") if "pruning.target" not in word]
    arguments += [f"--model.source={source}", f"--trainer.max_steps={STEPS}", *flags]
    (record,) = run(fit, folder / "log", arguments=arguments)
    steps: dict[int, list[tuple[float, float]]] = {}
    for (step, _), batch in sorted(record["batches"].items()):
        steps.setdefault(step, []).append((batch["loss"], batch["penalty"]))
    means = [[sum(part) / len(part) for part in zip(*batches, strict=True)] for batches in steps.values()]
    return {
        "language_loss": [mean[0] for mean in means],
        "size_penalty": [mean[1] for mean in means],
        "validation": {str(step): losses.tolist() for step, losses in record["domain_losses"].items()},
        "mixture": {str(step): list(weights.values()) for step, weights in record["mixtures"].items()},
    }


def differences(stored: dict[str, Any], found: dict[str, Any]) -> dict[str, float]:
    """The largest relative difference by kind of number; infinite where the numbers are of other steps."""
    return {name: _difference(stored[name], found[name]) for name in stored}


def _difference(stored: Any, found: Any) -> float:
    if isinstance(stored, dict):
        if stored.keys() != found.keys():
            return float("inf")
        return max((_difference(stored[key], found[key]) for key in stored), default=0.0)
    if len(stored) != len(found):
        return float("inf")
    return max((abs(a - b) / max(1.0, abs(a)) for a, b in zip(stored, found, strict=True)), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rewrite", action="store_true", help="store what is found")
    options = parser.parse_args()
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "toy").mkdir()
        toy = write_toy(root / "toy")
        found = {}
        for number, kind in enumerate(KINDS):
            (root / str(number)).mkdir()
            found[kind] = measured(toy, root / str(number), kind)
            moved = differences(stored[kind], found[kind]) if kind in stored else "not stored yet"
            print(f"{kind}: {moved}")
    if options.rewrite:
        STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
