"""One axis alone beside optipfair, on the same text and at the same size, before and after the same repair.

    pip install --no-deps --target /some/where optipfair==0.4.2
    python benchmarks/repair_rivals.py feed-forward --texts DIR --optipfair /some/where --work runs/rivals
    python benchmarks/repair_rivals.py layers       --texts DIR --optipfair /some/where --work runs/rivals

DIR holds a .jsonl file for each domain (a sample of RedPajama). Both see the same windows of 512 tokens, of which a
sample of four a domain ranks units and repairs cuts; losses are on four others a domain that neither has seen. Three
samples; each cell is a line of <work>/<table>.jsonl and is not measured again.
"""

import argparse
import copy
import hashlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo_inputs import default_cache, fetch_source, prepare_kinds
from machine import machine
from repair import Bench, Cell
from shear_lit.evaluation.calibration import CalibrationText
from shear_lit.evaluation.domain_loss import mean_loss
from shear_lit.models.huggingface import build_model
from shear_lit.models.registry import carved_config, family_of
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.constraints import GateValues
from shear_lit.pruning.repair import repair
from shear_lit.pruning.starts import ranked_gates
from shear_lit.theory.shape import Axis, ModelShape

WINDOWS, REPAIR_WINDOWS = 4, 8
WHOLE = dict(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536)
TARGETS = {
    "feed-forward": ModelShape(**{**WHOLE, "intermediate": 1076}),
    "layers": ModelShape(**{**WHOLE, "layers": 24}),
}
OURS = {
    "feed-forward": ("default", '{"intermediate": "activation"}', '{"intermediate": "reconstruction"}'),
    "layers": ("default", '{"layers": "depth"}'),
}


def text(bench: Bench, sample: int, sequences: int, micro_batch: int) -> CalibrationText:
    """A sample of the training text: so many windows of each domain."""
    batches = bench.batches(Cell(sample=sample), sequences=sequences, micro_batch=micro_batch)
    return CalibrationText(batches, bench.device)  # type: ignore[arg-type]


def rival_gates(table: str, bench: Bench, sample: int) -> GateValues:
    """What optipfair keeps, as gates of 0 and 1."""
    import optipfair
    from optipfair.pruning.depth import analyze_layer_importance

    shape = bench.family.shape
    model = copy.deepcopy(bench.model()).to(bench.device)
    batches = [
        {"input_ids": passage.inputs["input_ids"]} for passage in text(bench, sample, WINDOWS, micro_batch=1)
    ]
    if table == "layers":
        found = analyze_layer_importance(model, batches, show_progress=False)
        values = torch.tensor([found[layer] for layer in range(shape.layers)])
        return ranked_gates({Axis.LAYERS: values}, shape, TARGETS[table])
    model.requires_grad_(requires_grad=True)
    cut = optipfair.prune_model(
        model,
        pruning_type="MLP_GLU",
        neuron_selection_method="MAW",
        # It rounds the units that go down.
        pruning_percentage=100
        * (shape.intermediate - TARGETS[table].intermediate + 0.5)
        / shape.intermediate,
        dataloader=batches,
        show_progress=False,
    )
    gates = torch.zeros(shape.layers, shape.intermediate)
    for layer, (own, small) in enumerate(zip(bench.model().model.layers, cut.model.layers, strict=True)):
        gates[layer, _rows(own.mlp.gate_proj.weight, small.mlp.gate_proj.weight)] = 1
    assert (gates.sum(1) == TARGETS[table].intermediate).all(), gates.sum(1)
    return {Axis.INTERMEDIATE: gates}


def _rows(whole: Tensor, some: Tensor) -> list[int]:
    """The rows of ``whole`` that ``some`` has."""
    numbers = {row.numpy().tobytes(): number for number, row in enumerate(whole.detach().cpu())}
    return [numbers[row.numpy().tobytes()] for row in some.detach().cpu()]


def kept_digest(gates: GateValues) -> str:
    """The same for gates that keep the same units: their cut is measured once."""
    parts = [gates[axis].ne(0).numpy().tobytes() for axis in Axis if axis in gates]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def losses(bench: Bench, gates: GateValues, sample: int) -> tuple[float, float]:
    """Of a cut, before and after repair."""
    kept = kept_units(gates, bench.family.shape)
    config = carved_config(bench.config, kept.shape, kept_layers=kept.layers.tolist())
    cut = build_model(config, bench.carved(gates), dtype=torch.float32).eval()
    before = mean_loss(bench.losses(cut))
    passages = text(bench, sample, REPAIR_WINDOWS, micro_batch=4)
    repair(bench.model(), cut, bench.family, family_of(config), kept, passages, device=bench.device)
    return before, mean_loss(bench.losses(cut))


def main() -> None:
    """Measure what is left, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=sorted(TARGETS))
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--optipfair", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--by", nargs="+", help="what orders units; the rest is left for later")
    parser.add_argument("--device", type=torch.device, default="cpu")
    options = parser.parse_args()
    sys.path.append(str(options.optipfair))
    source = fetch_source(default_cache())
    data = prepare_kinds(options.texts, source, options.work / "data", sequence_length=512)
    bench = Bench(source, data, TARGETS[options.table], device=options.device, evaluated=WINDOWS)
    file = options.work / f"{options.table}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for sample in range(3):
        for by in ("optipfair", *OURS[options.table]):
            if options.by and by not in options.by:
                continue
            if any(line["by"] == by and line["sample"] == sample for line in lines):
                continue
            if by == "optipfair":
                gates = rival_gates(options.table, bench, sample)
            else:
                scores, _ = bench.scores(Cell(criterion=by, sample=sample, sequences=WINDOWS))
                gates = ranked_gates(scores, bench.family.shape, bench.target)
            units = kept_digest(gates)
            same = [line for line in lines if (line["sample"], line.get("units")) == (sample, units)]
            found = (same[0]["cut"], same[0]["repaired"]) if same else losses(bench, gates, sample)
            line = {"by": by, "sample": sample, "cut": found[0], "repaired": found[1], "units": units}
            lines.append(line)
            with file.open("a") as out:
                out.write(json.dumps(lines[-1]) + "\n")
            print(lines[-1], flush=True)
    print(
        f"source {mean_loss(bench.losses(bench.model())):.3f}\n\n{_table(lines)}\n\n{json.dumps(machine())}"
    )


def _table(lines: list[dict[str, Any]]) -> str:
    rows = ["| units by | cut | repaired |", "|---|--:|--:|"]
    for by in dict.fromkeys(line["by"] for line in lines):
        cells = []
        for column in ("cut", "repaired"):
            found = [line[column] for line in lines if line["by"] == by]
            scatter = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.3f}{scatter} ({len(found)})")
        rows.append(f"| {by.replace(chr(34), '')} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
