"""Repair in every form of every family, on models that were trained on text for about a minute.

python -m tests.pruning.repair.trained --work runs/repair-trained         # stopped, it goes on

Each is a small model of bytes, trained on the standard library's own modules, ranked by default, cut on every axis and
repaired. It fails where fewer than nine in ten of the weights are better on text held out, or the loss is not.
"""

import argparse
import json
import math
import sys
import sysconfig
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from shear_lit.models.family import Family
from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.repair import repair
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.criteria import criteria_by_axis
from shear_lit.ranking.importance import Passage
from shear_lit.ranking.measuring import measure
from shear_lit.theory.shape import ModelShape
from tests.toy_families import FORMS, Form, carved_of

LENGTH, BATCH, HEAD_SIZE = 128, 16, 16
PASSAGES, ROWS = 40, 8
"""Of the text to repair on: 40,960 tokens."""
CPU = torch.device("cpu")


def text() -> torch.Tensor:
    """Sequences of bytes of the standard library's modules, in an order of their own."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    every = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in modules)), dtype=torch.uint8)
    rows = every[: len(every) // LENGTH * LENGTH].view(-1, LENGTH).long()
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def trained(form: Form, rows: torch.Tensor, steps: int) -> PreTrainedModel:
    """A model of the form, wider than the toy, with the constants of real ones."""
    heads = 6 if form.grouped else 4
    caps = {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": HEAD_SIZE,
    }
    sizes = {
        "vocab_size": 256,
        "max_position_embeddings": LENGTH,
        "hidden_size": heads * HEAD_SIZE,
        "intermediate_size": 256,
        "head_dim": HEAD_SIZE,
        "initializer_range": 0.02,
        "sliding_window": 32,
        **caps,
    }
    known = {name: value for name, value in sizes.items() if name in form.config().to_dict()}
    known = {name: value for name, value in known.items() if form.entries.get(name, value) is not None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(form.config(**known)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 30) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        batch = rows[torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def loss_of(model: PreTrainedModel, rows: torch.Tensor) -> float:
    """Nats per byte."""
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
    return float(functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()))


def target_of(form: Form, family: Family) -> ModelShape:
    """Three quarters of everything."""
    heads = family.shape.kv_heads - 1
    return ModelShape(
        layers=3,
        hidden=heads * HEAD_SIZE if form.wide_heads else family.shape.hidden * 3 // 4,
        query_heads=heads * family.shape.queries_per_group,
        kv_heads=heads,
        intermediate=192,
    )


def case(form: Form, rows: torch.Tensor, steps: int) -> dict[str, object]:
    """Train, rank, cut and repair one form."""
    started = time.monotonic()
    model = trained(form, rows[4 * BATCH + PASSAGES * ROWS :], steps)
    family, held_out = family_of(model.config), rows[: 4 * BATCH]
    passages = [
        Passage(inputs={"input_ids": ids, "labels": ids}, number=number * ROWS)
        for number, ids in enumerate(rows[4 * BATCH :][: PASSAGES * ROWS].split(ROWS))
    ]
    attached = attach(model, family)
    singles = [
        Passage(inputs={"input_ids": row[None], "labels": row[None]}, number=number)
        for number, row in enumerate(rows[4 * BATCH :][:64])
    ]
    found = measure(
        model, family, singles, criteria_by_axis("default"), set_gates=attached.set, device=CPU
    ).importance
    attached.detach()
    gates = ranked_gates(found, family.shape, target_of(form, family))
    small = carved_of(model, gates, dtype=torch.float32)
    losses = {"source": loss_of(model, held_out), "cut": loss_of(small, held_out)}
    refitted = repair(
        model,
        small,
        family,
        family_of(small.config),
        kept_units(gates, family.shape),
        passages,
        device=CPU,
    )
    return {
        **losses,
        "repaired": loss_of(small, held_out),
        "refitted": sum(item.refitted for item in refitted),
        "weights": len(refitted),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Do what is left, print a table, and fail where a form is not better."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/repair-trained"))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    file, rows = options.work / f"{options.steps}.jsonl", text()
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for number, form in enumerate(FORMS):
        name = f"{number} {form}"  # two forms may be called alike
        if name in (line["form"] for line in lines):
            continue
        lines.append({"form": name, **case(form, rows, options.steps)})
        with file.open("a") as out:
            out.write(json.dumps(lines[-1]) + "\n")
        print(lines[-1], flush=True)
    print("| form | source | cut | repaired | better on text held out |\n|---|--:|--:|--:|--:|")
    for line in lines:
        losses = " | ".join(f"{line[name]:.3f}" for name in ("source", "cut", "repaired"))
        print(f"| {line['form']} | {losses} | {line['refitted']} of {line['weights']} |")
    worse = [
        line["form"]
        for line in lines
        if line["repaired"] >= line["cut"] or line["refitted"] < 0.9 * line["weights"]
    ]
    sys.exit(f"not better: {', '.join(worse)}" if worse else 0)


if __name__ == "__main__":
    main()
