"""What a ranking and a repair are worth without a training step: losses of cuts on validation text.

    python benchmarks/repair.py demo --work runs/repair          # all cells of a table; stopped, it goes on

Tables: ``demo`` (what orders units, and what is refitted), ``tokens`` (how much text), ``domains`` (each domain in turn
is neither ranked nor repaired on, and measured): all cut the demo's source to the demo's shape. ``small`` cuts the
source of benchmarks/small_source.py, made before at ``--small``. Each cell is a line of <work>/<table>.jsonl. Loss:
mean over domains, in nats per token. With ``--elsewhere DIR``, of a .jsonl file for each kind of text, cells are
measured on these as well, which nothing is ranked or repaired on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cells import run_cells
from demo_inputs import prepare_kinds, write_demo_inputs
from machine import machine
from shear_lit.commands.demo.texts import DOMAINS
from shear_lit.data.serving.batch import PADDING_DOMAIN, DomainBatch
from shear_lit.data.serving.remote import read_prepared
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.evaluation.calibration import CalibrationText
from shear_lit.evaluation.domain_loss import mean_loss, measure_domain_losses
from shear_lit.evaluation.repair_text import RepairText, data_batches, repair_text
from shear_lit.models.choices import GENERATED_FRACTION, REPAIR_TOKENS
from shear_lit.models.huggingface import build_model, read_config, read_model
from shear_lit.models.registry import carved_config, family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.pruning.constraints import GateValues
from shear_lit.pruning.repair import repair
from shear_lit.pruning.settings import RepairSettings
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.criteria import criteria_by_axis
from shear_lit.ranking.importance import Importance
from shear_lit.ranking.measuring import measure
from shear_lit.theory.shape import ModelShape

DEMO_SHAPE = ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1280)
SMALL_SHAPE = ModelShape(layers=6, hidden=128, query_heads=8, kv_heads=4, intermediate=320)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cut, repaired or not."""

    criterion: str = "default"
    """A word, or a mapping of axes as JSON."""
    sample: int = 0
    sequences: int = 16
    """Of each domain, to rank on."""
    parts: str = "none"
    tokens: int = 0
    """To repair on."""
    generated: float = 0.0
    """Tokens beside them that the source generates, as a fraction of them."""
    without: str = ""
    """A domain that is neither ranked nor repaired on."""


@dataclass(frozen=True)
class _Without:
    """Batches in which the sequences of one domain only fill up."""

    batches: ValidationLoader
    domain: int | None
    rank, world_size = 0, 1

    @property
    def sequences(self) -> int:
        return self.batches.sequences

    def __iter__(self) -> Iterator[DomainBatch]:
        for batch in self.batches:
            domain = batch["domain"]
            if self.domain is not None:
                batch["domain"] = domain.masked_fill(domain == self.domain, PADDING_DOMAIN)
            yield batch


class Bench:
    """A source, text, and what is measured on them."""

    def __init__(
        self,
        source: Path,
        data: Path,
        target: ModelShape,
        *,
        device: torch.device,
        evaluated: int = 16,
        elsewhere: Path | None = None,
    ) -> None:
        self.source, self.data, self.target, self.device = source, data, target, device
        self.elsewhere = elsewhere
        self.config = read_config(str(source))
        self.family = family_of(self.config)
        self.manifest = read_prepared(str(data))
        self.domains = tuple(self.manifest.domains)
        self.evaluated = evaluated
        self._scores: dict[tuple[Any, ...], Importance] = {}

    @cache  # noqa: B019  (one bench a process)
    def model(self) -> Any:
        model = read_model(str(self.source), dtype=torch.float32).eval()
        return model.requires_grad_(requires_grad=False)

    def batches(self, cell: Cell, *, sequences: int, micro_batch: int) -> "_Without":
        """A sample of the training text of all domains but the one that is left out."""
        store = SequenceStore(str(self.data), "prune", self.manifest)
        left_out = self.domains.index(cell.without) if cell.without else None
        return _Without(
            ValidationLoader(store, sequences=sequences, micro_batch=micro_batch, sample_number=cell.sample),
            left_out,
        )

    def repair_text(self, cell: Cell) -> RepairText:
        """What a cell is repaired on."""
        sizes = RepairSettings(tokens=cell.tokens, generated_fraction=cell.generated)
        batches = self.batches(cell, **data_batches(sizes, self.manifest, "prune"))
        return repair_text(sizes, self.manifest, batches, str(self.source), self.device)  # type: ignore[arg-type]

    def carved(self, gates: GateValues) -> dict[str, torch.Tensor]:
        """What the gates keep of the source's weights."""
        parts = carve(dict(self.model().named_parameters()), self.family, gates)
        return {name: part.float() for name, part in parts.items()}

    def losses(self, model: Any, data: Path | None = None) -> dict[str, float]:
        """By domain of ``data`` (by default the bench's own), on ``evaluated`` sequences of its validation sample."""
        data = data or self.data
        manifest = read_prepared(str(data))
        batches = ValidationLoader(
            SequenceStore(str(data), "validation", manifest), sequences=self.evaluated, micro_batch=8
        )
        with self.on_device(model):
            return dict(measure_domain_losses(model, batches, tuple(manifest.domains)))

    @contextmanager
    def on_device(self, model: Any) -> Iterator[None]:
        """A model on the device; a repair takes it there block by block itself."""
        model.to(self.device)
        yield
        model.cpu()

    def scores(self, cell: Cell) -> tuple[Importance, float]:
        """Importance by axis, and the seconds that it took."""
        key = (cell.criterion, cell.sample, cell.sequences, cell.without)
        started = time.perf_counter()
        if key not in self._scores:
            said = json.loads(cell.criterion) if cell.criterion.startswith("{") else cell.criterion
            attached = attach(self.model(), self.family)
            batches = self.batches(cell, sequences=cell.sequences, micro_batch=1)
            text = CalibrationText(batches, self.device)  # type: ignore[arg-type]
            with self.on_device(self.model()):
                measured = measure(
                    self.model(),
                    self.family,
                    text,
                    criteria_by_axis(said),
                    set_gates=attached.set,
                    device=self.device,
                    seed=17 + cell.sample,
                )
            attached.detach()
            self._scores[key] = {axis: values.cpu() for axis, values in measured.importance.items()}
        return self._scores[key], time.perf_counter() - started

    def run(self, cell: Cell) -> dict[str, Any]:
        importance, ranking_seconds = self.scores(cell)
        gates = ranked_gates(importance, self.family.shape, self.target)
        kept = kept_units(gates, self.family.shape)
        config = carved_config(self.config, kept.shape, kept_layers=kept.layers.tolist())
        carved = build_model(config, self.carved(gates), dtype=torch.float32).eval()
        started, refitted = time.perf_counter(), []
        if cell.parts != "none":
            refitted = repair(
                self.model(),
                carved,
                self.family,
                family_of(config),
                kept,
                self.repair_text(cell).passages(self.model()),
                parts=cell.parts,
                device=self.device,
            )
        seconds = time.perf_counter() - started
        losses = self.losses(carved)
        return {
            "loss": mean_loss(losses),
            "losses": losses,
            "elsewhere": self.losses(carved, self.elsewhere) if self.elsewhere else {},
            "seconds": round(seconds, 1),
            "ranking_seconds": round(ranking_seconds, 1),
            "refitted": sum(item.refitted for item in refitted),
            "weights": len(refitted),
            "layers_out": sorted(set(range(self.family.shape.layers)) - set(kept.layers.tolist())),
        }


TABLES: dict[str, list[Cell]] = {
    # What orders units, and what is refitted, at the same text.
    "demo": [
        *(
            Cell(criterion=criterion, sample=sample, parts=parts, tokens=10_240 if parts != "none" else 0)
            for criterion in ("random", "weight", "taylor", "fisher", "default")
            for parts in ("none", "writers")
            for sample in range(3)
        ),
        *(
            Cell(parts=parts, sample=sample, tokens=10_240)
            for parts in ("readers", "embedding", "norms")
            for sample in range(3)
        ),
        *(
            Cell(criterion='{"layers": "depth"}', sample=sample, parts="embedding", tokens=10_240)
            for sample in range(3)
        ),
        *(
            Cell(criterion='{"intermediate": "activation"}', sample=sample, parts="embedding", tokens=10_240)
            for sample in range(3)
        ),
        Cell(criterion='{"intermediate": "reconstruction"}', parts="embedding", tokens=10_240),
    ],
    # How much text.
    "tokens": [
        *(Cell(sample=sample) for sample in range(3)),
        *(
            Cell(parts="embedding", sample=sample, tokens=REPAIR_TOKENS, generated=GENERATED_FRACTION)
            for sample in range(3)
        ),
        *(
            Cell(parts="embedding", tokens=tokens, generated=GENERATED_FRACTION)
            for tokens in (2_560, 5_120, 10_240, 20_480, 40_960, 81_920, 163_840)
        ),
    ],
    # Text of a kind that was not seen.
    "domains": [
        *(Cell(without=domain) for domain in ("", *DOMAINS)),
        *(
            Cell(parts="embedding", tokens=20_480, without=domain, generated=generated)
            for generated in (GENERATED_FRACTION, 0.0, 0.2)
            for domain in (("", *DOMAINS) if generated != 0.2 else ("", "code"))
        ),
    ],
    # Another source and another shape.
    "small": [
        *(
            Cell(criterion=criterion, sample=sample, parts=parts, tokens=20_480 if parts != "none" else 0)
            for criterion in ("random", "weight", "taylor", "fisher", "default")
            for parts in ("none", "writers", "embedding")
            for sample in range(3)
        ),
        *(
            Cell(parts="embedding", sample=sample, tokens=REPAIR_TOKENS, criterion=criterion)
            for criterion in ("default", '{"layers": "depth"}', '{"layers": "loss"}')
            for sample in range(3)
        ),
    ],
}


def said(line: dict[str, Any]) -> str:
    """What is printed of a cell."""
    cell = {name: value for name, value in line["cell"].items() if value not in ("", 0)}
    return f"{line['loss']:.4f}  {line['seconds']:6.1f} s  {cell} {line['layers_out']}"


def table(file: Path, source: Mapping[str, float]) -> str:
    """The cells of a file in Markdown, samples together, beside the source; of a domain that was left out."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        cell = {name: value for name, value in line["cell"].items() if name != "sample"}
        groups.setdefault(json.dumps(cell), []).append(line)
    rows = [
        "| ranked by | refitted | tokens | generated | loss | more than the source | seconds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for key, lines in groups.items():
        cell = json.loads(key)
        over = [cell["without"]] if cell["without"] else list(source)
        losses = [statistics.mean(line["losses"][domain] for domain in over) for line in lines]
        more = statistics.mean(losses) - statistics.mean(source[domain] for domain in over)
        scatter = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
        mean, seconds = statistics.mean(losses), statistics.mean(line["seconds"] for line in lines)
        criterion = cell["criterion"].replace('"', "")
        if cell["without"]:
            criterion += f", without {cell['without']}"
        rows.append(
            f"| {criterion} | {cell['parts']} | {cell['tokens']:,} | {cell['generated']:.0%} | "
            f"{mean:.3f}{scatter} ({len(losses)}) | {more:+.3f} | {seconds:.0f} |"
        )
    return "\n".join(rows)


def elsewhere_table(file: Path, source: Mapping[str, float]) -> str:
    """The cells' losses on text of other kinds, in Markdown, beside the source's."""
    rows = [
        f"| ranked by | refitted | tokens | generated | sample | {' | '.join(source)} |",
        f"|---|---|--:|--:|--:|{'--:|' * len(source)}",
        f"| source | | | | | {' | '.join(f'{loss:.3f}' for loss in source.values())} |",
    ]
    for line in map(json.loads, file.read_text().splitlines()):
        cell, found = line["cell"], line.get("elsewhere")
        if found:
            rows.append(
                f"| {cell['criterion']} | {cell['parts']} | {cell['tokens']:,} | {cell['generated']:.0%} | "
                f"{cell['sample']} | {' | '.join(f'{found[kind]:.3f}' for kind in source)} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Run what is left of a table, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=sorted(TABLES))
    parser.add_argument("--work", type=Path, default=Path("runs/repair"))
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--small", type=Path, default=Path("runs/small"))
    parser.add_argument(
        "--elsewhere", type=Path, help="a directory of .jsonl files to measure new cells on as well"
    )
    parser.add_argument("--parts", nargs="+", help="cells that refit these; the rest is left for later")
    parser.add_argument(
        "--tokens", type=int, nargs="+", help="cells repaired on so many; the rest is left for later"
    )
    parser.add_argument(
        "--generated",
        type=float,
        nargs="+",
        help="cells with such a part generated; the rest is left for later",
    )
    parser.add_argument("--criteria", nargs="+", help="cells ranked by these; the rest is left for later")
    options = parser.parse_args()
    if options.table == "small":
        source, data, shape = options.small / "source", options.small / "data", SMALL_SHAPE
    else:
        source, data, shape = *write_demo_inputs(options.work), DEMO_SHAPE
    elsewhere = None
    if options.elsewhere:
        elsewhere = prepare_kinds(options.elsewhere, source, options.work / "elsewhere", sequence_length=128)
    bench = Bench(source, data, shape, device=options.device, elsewhere=elsewhere)
    file = options.work / f"{options.table}.jsonl"
    cells = [
        cell
        for cell in TABLES[options.table]
        if cell.parts in (options.parts or [cell.parts])
        and cell.criterion in (options.criteria or [cell.criterion])
        and cell.tokens in (options.tokens or [cell.tokens])
        and cell.generated in (options.generated or [cell.generated])
    ]
    run_cells(bench.run, cells, file, said)
    own = bench.losses(bench.model())
    print(f"source {mean_loss(own):.3f}\n\n{table(file, own)}")
    if elsewhere:
        print(f"\n{elsewhere_table(file, bench.losses(bench.model(), elsewhere))}")
    print(f"\n{json.dumps(machine())}")


if __name__ == "__main__":
    main()
