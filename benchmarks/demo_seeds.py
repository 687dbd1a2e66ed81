"""How the demo's result scatters: its way from the source to the trained model, with other seeds.

    python benchmarks/demo_seeds.py --work runs/demo-seeds          # all seeds; stopped, it goes on

A seed is that of the gates' noise and of the order of sequences, and the number of the sample that units are ranked on.
The text of the repair is the same for all. Each seed is a line of <work>/seeds.jsonl: losses by domain on the demo's
held-out sequences, nats per token.
"""

import argparse
import json
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cells import run_cells
from machine import machine
from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.directory import DemoDirectory
from shear_lit.commands.demo.numbers import DEMO
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.demo.texts import fetch_texts
from shear_lit.commands.rank import rank
from shear_lit.evaluation.domain_loss import mean_loss


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One seed."""

    seed: int


class Bench:
    """The demo's source, text and references, and what is made of them."""

    def __init__(self, work: Path, device: Literal["cpu", "cuda"]) -> None:
        self.place = DemoDirectory(work, DEMO, device)
        cache = default_cache()
        self.source = fetch_source(cache)
        if not self.place.data.is_dir():
            self.place.prepare(self.source, fetch_texts(cache))
        if not self.place.references.exists():
            self.place.measure_references(self.source)
        self.own = mean_loss(self.place.evaluate(self.source).losses)

    def run(self, cell: Cell) -> dict[str, Any]:
        """Rank, repair, prune and train."""
        place, started = self.place, time.monotonic()
        for name in ("prune", "continue", "models"):
            shutil.rmtree(place.path / name, ignore_errors=True)
        scores = place.path / f"scores-{cell.seed}.safetensors"
        if not scores.exists():
            sequences = DEMO.ranking_sequences
            rank(
                str(self.source),
                str(scores),
                "default",
                str(place.data),
                sequences_per_domain=sequences,
                sample=cell.seed,
                device=place.device,
            )
        seeds = dict.fromkeys(("seed_everything", "model.seed", "data.seed"), str(cell.seed))
        pruned = place.fit(
            "prune", "prune", self.source, {**seeds, "model.pruning.initial_scores": str(scores)}
        )
        place.export("prune", "pruned")
        place.fit("continue", "pretrain", place.model("pruned"), seeds)
        place.export("continue", "continued")
        losses = dict(place.evaluate(place.model("continued")).losses)
        assert pruned.repair is not None
        return {
            "loss": mean_loss(losses),
            "losses": losses,
            "repaired": mean_loss(place.first_losses("prune")),
            "repair_tokens": pruned.repair["tokens"],
            "seconds": round(time.monotonic() - started, 1),
        }


def said(line: dict[str, Any]) -> str:
    """What is printed of a seed."""
    return f"{line['cell']['seed']}: {line['loss']:.4f} from {line['repaired']:.4f}  {line['seconds']:.0f} s"


def main() -> None:
    """Run what is left, and print the mean."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    bench, file = Bench(options.work, options.device), options.work / "seeds.jsonl"
    run_cells(bench.run, [Cell(seed=seed) for seed in options.seeds], file, said)
    losses = [json.loads(line)["loss"] for line in file.read_text().splitlines()]
    mean, error = statistics.mean(losses), statistics.stdev(losses) / len(losses) ** 0.5
    print(
        f"source {bench.own:.4f}, after training {mean:.4f} ± {error:.4f} (standard error of {len(losses)} seeds), "
        f"{mean - bench.own:+.4f}\n{json.dumps(machine())}"
    )


if __name__ == "__main__":
    main()
