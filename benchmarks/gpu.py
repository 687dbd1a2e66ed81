"""Does the whole way work on the device that is here, and what does it cost?

A random LLaMA model and random text are made on the spot. On one device plainly, and on fsdp2 in one process, the
model is pruned with gates, exported, read by stock transformers, trained further, resumed from the middle, and
validated; then it takes the same steps without gates, for the ratio. Prints one JSON line per figure, and ends with an
error where the way breaks off. Needs the package's own dependencies, no network, and for ``--size 1b`` 40 GB of disk.

    python benchmarks/gpu.py --size 1b --work runs/gpu
"""

import argparse
import contextlib
import csv
import gc
import io
import json
import os
import random
import re
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when it is imported

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from machine import machine
from shear_lit import cli
from shear_lit.training.checkpoints import read_facts

DOMAINS = ("even", "odd")
STRATEGIES = {"single device": [], "fsdp2": ["--trainer.strategy=fsdp2"]}
MOST_SECONDS = 300
"""What all of it may take on an H100."""
MOST_DIFFERENCE = {"validate": 1e-3, "resume": 2e-2}
"""Of losses in nats: validate prints four digits; kernels of a device may add in another order after a resume."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, what it is cut to, and how much it reads."""

    model: dict[str, int]
    target: dict[str, int]
    sequence_length: int
    global_batch: int
    micro_batch: int
    documents: int
    """Of each domain."""
    document_words: int
    steps: int
    """Of each stage; a validation and a checkpoint come after half of them."""


SIZES = {
    "1b": Size(
        model=dict(
            vocab_size=32000,
            hidden_size=2048,
            intermediate_size=5504,
            num_hidden_layers=20,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            max_position_embeddings=2048,
        ),
        target=dict(layers=14, hidden=1280, query_heads=20, kv_heads=5, intermediate=3456),
        sequence_length=2048,
        global_batch=8,
        micro_batch=4,
        documents=400,
        document_words=2000,
        steps=20,
    ),
    "toy": Size(
        model=dict(
            vocab_size=1024,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=4,
            max_position_embeddings=64,
        ),
        target=dict(layers=2, hidden=24, query_heads=4, kv_heads=1, intermediate=32),
        sequence_length=24,
        global_batch=4,
        micro_batch=2,
        documents=60,
        document_words=60,
        steps=4,
    ),
}
WORDS = 1000


class BrokenOffError(Exception):
    """A step of the way did not do what it should."""


def make_inputs(size: Size, folder: Path) -> None:
    """A tokenizer of made-up words, random text of them, prepared data, and a random model in bfloat16."""
    numbers, raw = random.Random(0), folder / "raw"
    raw.mkdir(parents=True)
    for offset, domain in enumerate(
        DOMAINS
    ):  # which have half of the words each, so that there is something to learn
        words = [f"w{index}" for index in range(offset, WORDS, 2)]
        with (raw / f"{domain}.jsonl").open("w") as file:
            for _ in range(size.documents):
                text = " ".join(numbers.choices(words, k=size.document_words))
                file.write(json.dumps({"text": text}) + "\n")
    special = {"<s>": 0, "</s>": 1, "<unk>": 2}
    vocabulary = special | {f"w{index}": index + len(special) for index in range(WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(**size.model, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1)
    with torch.device(device()):
        model = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder / "source")
    tokenizer.save_pretrained(folder / "source")
    command(
        "prepare",
        *(f"--domains.{domain}={raw / domain}.jsonl" for domain in DOMAINS),
        f"--tokenizer={folder / 'source'}",
        f"--output={folder / 'data'}",
        f"--sequence_length={size.sequence_length}",
        "--workers=1",
    )


def device() -> torch.device:
    """The device that runs take by themselves."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def command(*words: str) -> str:
    """Give a command line; returns what it printed.

    Raises:
        BrokenOffError: it was refused, or failed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            cli.main(list(words))
    except SystemExit as error:
        if error.code:
            raise BrokenOffError(f"shear-lit {' '.join(words)}: exit code {error.code}") from error
    finally:
        sys.stderr.write(printed.getvalue())
    return printed.getvalue()


@dataclass(frozen=True)
class Way:
    """All commands of one strategy, and what they show."""

    size: Size
    inputs: Path
    folder: Path
    strategy: str

    def run(self, action: str, name: str, source: Path, *flags: str, gated: bool = False) -> str:
        """``fit`` or ``validate`` of the run that is called so."""
        size, half = self.size, self.size.steps // 2
        pruning = [
            *(f"--model.pruning.target.{axis}={units}" for axis, units in size.target.items()),
            f"--model.pruning.sparsity_warmup_steps={half}",
            "--model.pruning.initial_gap=3",
            "--model.pruning.initial_log_alpha=4.605170185988092",
            f"--model.pruning.calibration_sequences={size.global_batch}",
        ]
        return command(
            action,
            f"--model.source={source}",
            "--model.optimizer.weights_learning_rate=1e-4",
            "--model.optimizer.warmup_steps=2",
            *(pruning if gated else ["--model.pruning=null"]),
            f"--data.directory={self.inputs / 'data'}",
            f"--data.split={'prune' if gated else 'pretrain'}",
            f"--data.global_batch={size.global_batch}",
            f"--data.micro_batch={size.micro_batch}",
            f"--data.validation_sequences={size.global_batch}",
            *(f"--data.mixture.proportions.{domain}={1 / len(DOMAINS)}" for domain in DOMAINS),
            *(f"--data.mixture.references.{domain}=1.0" for domain in DOMAINS),
            f"--data.mixture.update_every_steps={half}",
            f"--checkpoint.every_steps={half if name == 'pretrain' else size.steps}",
            "--checkpoint.keep=-1",
            f"--trainer.max_steps={size.steps}",
            f"--trainer.log_every_n_steps={max(1, size.steps // 5)}",
            f"--trainer.default_root_dir={self.folder / name}",
            "--trainer.devices=1",
            "--trainer.precision=bf16-mixed",
            "--trainer.enable_progress_bar=false",
            *STRATEGIES[self.strategy],
            *flags,
        )

    def figures(self) -> Iterator[dict[str, Any]]:
        """Go the way; gives each figure when it is known."""
        source, out = self.inputs / "source", self.folder / "out"
        speed = {}
        with measured() as cost:
            self.run("fit", "prune", source, gated=True)
        speed["prune"] = self._tokens_per_second("prune")
        yield from self._stage("prune", speed["prune"], cost)

        with measured() as cost:
            command("export", f"--checkpoint={self._checkpoint('prune', self.size.steps)}", f"--output={out}")
        yield {"figure": "seconds", "stage": "export", "value": cost["seconds"]}
        shutil.rmtree(self.folder / "prune")
        yield {"figure": "parameters", "stage": "export", "value": stock_parameters(out)}

        with measured() as cost:
            self.run("fit", "pretrain", out)
        yield from self._stage("pretrain", self._tokens_per_second("pretrain"), cost)
        last = self._checkpoint("pretrain", self.size.steps)
        losses = read_facts(last).losses
        middle = self._checkpoint("pretrain", self.size.steps // 2)
        self.run("fit", "pretrain", out, f"--ckpt_path={middle}")
        again = last.with_name(last.name.replace(f"{self.size.steps:06d}", f"{self.size.steps:06d}-2"))
        yield self._difference("resume", losses, read_facts(again).losses)
        printed = self.run("validate", "pretrain", out, f"--ckpt_path={again}")
        found = {
            name: float(loss) for name, loss in re.findall(r"^(\w+) +([\d.]+) nats", printed, re.MULTILINE)
        }
        yield self._difference("validate", read_facts(again).losses, found)
        shutil.rmtree(self.folder / "pretrain")

        with measured() as cost:
            self.run("fit", "plain", source)
        speed["plain"] = self._tokens_per_second("plain")
        yield from self._stage("plain", speed["plain"], cost)
        yield {
            "figure": "gated step / plain step",
            "stage": "prune",
            "value": speed["plain"] / speed["prune"],
        }
        shutil.rmtree(self.folder)

    def _stage(self, stage: str, speed: float, cost: dict[str, float]) -> Iterator[dict[str, Any]]:
        yield {"figure": "tokens per second", "stage": stage, "value": speed}
        for figure in ("seconds", "peak memory, GiB"):
            yield {"figure": figure, "stage": stage, "value": cost[figure]}

    def _difference(self, stage: str, expected: dict[str, float], found: dict[str, float]) -> dict[str, Any]:
        if expected.keys() != found.keys() or not expected:
            raise BrokenOffError(f"{stage}: losses of {sorted(found)}, expected of {sorted(expected)}")
        worst = max(abs(expected[name] - found[name]) for name in expected)
        if not worst <= MOST_DIFFERENCE[stage]:
            raise BrokenOffError(f"{stage}: losses {found}, expected {expected}")
        return {"figure": "largest difference of losses", "stage": stage, "value": worst}

    def _checkpoint(self, name: str, step: int) -> Path:
        (found,) = (self.folder / name / "checkpoints").glob(f"step={step:06d}*")
        return found

    def _tokens_per_second(self, name: str) -> float:
        """The median of what a run reported, but for its first report, which has the start in it."""
        with (self.folder / name / "metrics.csv").open() as file:
            speeds = [
                float(row["value"])
                for row in csv.DictReader(file)
                if row["name"] == "speed/tokens_per_second"
            ]
        return statistics.median(speeds[1:])


@contextlib.contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Seconds of the block, and the most memory that it held: of the device; without one, of the process so far."""
    gc.collect()
    on_device = torch.cuda.is_available()
    if on_device:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, float] = {}
    start = time.monotonic()
    yield found
    found["seconds"] = time.monotonic() - start
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["peak memory, GiB"] = (torch.cuda.max_memory_allocated() if on_device else resident) / 2**30


def stock_parameters(directory: Path) -> int:
    """Load an export as anybody does, and let it read a few tokens; gives its parameters."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").to(device())
    logits = model(torch.arange(16, device=device())[None]).logits
    if model.dtype != torch.bfloat16 or not bool(logits.isfinite().all()):
        raise BrokenOffError(f"{directory}: {model.dtype}, and logits up to {logits.abs().max()}")
    return sum(parameter.numel() for parameter in model.parameters())


def measure(
    size: str, folder: Path, strategies: Sequence[str] = tuple(STRATEGIES)
) -> Iterator[dict[str, Any]]:
    """Go the whole way on each strategy, in a new folder; gives each figure when it is known."""
    start, name = time.monotonic(), torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    make_inputs(SIZES[size], folder / "inputs")
    for strategy in strategies:
        way = Way(SIZES[size], folder / "inputs", folder / strategy.replace(" ", "_"), strategy)
        for figure in way.figures():
            yield {"benchmark": "gpu", "device": name, "size": size, "strategy": strategy, **figure}
    seconds = time.monotonic() - start
    yield {
        "benchmark": "gpu",
        "device": name,
        "size": size,
        "figure": "seconds of all",
        "value": seconds,
        **machine(),
    }
    if seconds > MOST_SECONDS:
        raise BrokenOffError(f"it took {seconds:.0f} seconds, and {MOST_SECONDS} is the most")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, help="1b where there is a CUDA device, toy otherwise")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="new folder to work in")
    options = parser.parse_args()
    if options.work.exists():
        parser.error(f"--work {options.work} is there already: it would be removed at the end")
    size = options.size or ("1b" if torch.cuda.is_available() else "toy")
    try:
        for figure in measure(size, options.work, options.strategies):
            print(json.dumps(figure), flush=True)
    finally:
        shutil.rmtree(options.work, ignore_errors=True)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
