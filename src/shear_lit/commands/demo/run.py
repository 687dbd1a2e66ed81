"""``shear-lit demo``: the whole method on a real model and real text, small, with nothing to configure."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.control import write_random_cut
from shear_lit.commands.demo.errors import DemoError
from shear_lit.commands.demo.generation import compare_generation
from shear_lit.commands.demo.numbers import DEMO, FAST, DemoNumbers
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.demo.stages import Stage, config_file, control_steps, fit
from shear_lit.commands.demo.table import DemoResult, MeasuredModel
from shear_lit.commands.demo.texts import fetch_texts
from shear_lit.commands.evaluate import DomainLosses, evaluate
from shear_lit.commands.export import export
from shear_lit.commands.prepare import prepare
from shear_lit.commands.reference import measure
from shear_lit.training.checkpoints import CheckpointFacts, read_facts
from shear_lit.training.run_directory import latest_checkpoint

logger = logging.getLogger(__name__)

SOURCE, PRUNED, CONTINUED, RANDOM = "source", "pruned", "pruned + continued", "random cut, same training"
"""What the table calls its models."""

_STEPS = 10


def demo(output: str = "runs/demo", cache: str = str(default_cache()), *, fast: bool = False) -> DemoResult:
    """Prune a real pretrained model to 79.6 M parameters, continue its pre-training, and compare it with a random cut.

    Args:
        output: Directory for data, runs, models and the report; it must be new or empty.
        cache: Directory in which the source model and the text are kept once they are fetched.
        fast: Take only a few steps: the same path in about five minutes.
    """
    numbers = FAST if fast else DEMO
    directory, kept = Path(output).expanduser(), Path(cache).expanduser()
    check_output(directory, numbers.disk_bytes)
    run = _Demo(directory, numbers)
    with run.step("Fetching the source model"):
        source = fetch_source(kept)
    with run.step("Fetching and preparing the text of five domains"):
        texts = fetch_texts(kept)
        run.prepare(source, texts)
    with run.step("Measuring the source's losses, which the mixture refers to"):
        references = run.measure_references(source)
    with run.step("Pruning: learning which units to keep, jointly with the weights"):
        pruned = run.fit("prune", "prune", source, numbers.prune_overrides)
    with run.step("Cutting the model to its target"):
        cut = export(run.checkpoint("prune"), str(run.model("pruned")))
        logger.info("%s", cut)
    with run.step("Continuing the pre-training of the cut model"):
        continued = run.fit("continue", "pretrain", run.model("pruned"), numbers.continue_overrides)
        logger.info("%s", export(run.checkpoint("continue"), str(run.model("continued"))))
    with run.step("Cutting the source at random units to the same shape"):
        write_random_cut(str(source), cut.shape, run.model("random-untrained"), seed=numbers.control_seed)
    with run.step("Training the random cut on as many tokens"):
        steps = {"trainer.max_steps": str(control_steps(pruned, continued))}
        control = run.fit(
            "control", "pretrain", run.model("random-untrained"), {**numbers.continue_overrides, **steps}
        )
        logger.info("%s", export(run.checkpoint("control"), str(run.model("random"))))
    models = {
        SOURCE: source,
        PRUNED: run.model("pruned"),
        CONTINUED: run.model("continued"),
        RANDOM: run.model("random"),
    }
    with run.step("Measuring the losses of the three new models"):
        losses = {name: run.evaluate(path) for name, path in models.items() if name != SOURCE}
    with run.step("Measuring the speed of greedy generation"):
        written = compare_generation(
            models, numbers.prompt, new_tokens=numbers.new_tokens, repeats=numbers.generation_repeats
        )
    tokens = {
        SOURCE: 0,
        PRUNED: pruned.tokens,
        CONTINUED: pruned.tokens + continued.tokens,
        RANDOM: control.tokens,
    }
    result = DemoResult(
        output=str(directory),
        fast=fast,
        models=tuple(
            MeasuredModel(
                name=name,
                directory=str(path),
                parameters=measured.parameters,
                training_tokens=tokens[name],
                losses=measured.losses,
                tokens_per_second=written[name].tokens_per_second,
                speeds=written[name].speeds,
                sample=written[name].text,
            )
            for (name, path), measured in zip(models.items(), (references, *losses.values()), strict=True)
        ),
        validation_sequences=numbers.evaluation_sequences,
        sequence_length=numbers.sequence_length,
        prompt=numbers.prompt,
        new_tokens=numbers.new_tokens,
        seconds=run.seconds,
    )
    (directory / "report.md").write_text(f"{result}\n", encoding="utf-8")
    (directory / "results.json").write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return result


def check_output(directory: Path, needed_bytes: int) -> None:
    """Refuse a directory that holds something, or whose disk is too small, before anything is fetched.

    Raises:
        DemoError: it is so.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise DemoError(
            f"output={str(directory)!r} is not an empty directory: the demo starts afresh and overwrites nothing. "
            f"Name another one with --output, or remove it."
        )
    disk = next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(disk).free
    if free < needed_bytes:
        raise DemoError(
            f"output={str(directory)!r}: {free / 1e9:.1f} GB are free on its disk, and the demo needs "
            f"{needed_bytes / 1e9:.1f} GB there. Free some space, or name a directory on another disk with --output."
        )


class _Demo:
    """The demo's directory, and the clock of its steps."""

    def __init__(self, directory: Path, numbers: DemoNumbers) -> None:
        self.directory, self.numbers = directory, numbers
        self.data, self.references = directory / "data", directory / "references.yaml"
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what comes next, and how long it took."""
        logger.info("[%d/%d] %s …", len(self.seconds) + 1, _STEPS, what)
        start = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - start
        logger.info("      %.0f s", self.seconds[what])

    def model(self, name: str) -> Path:
        return self.directory / "models" / name

    def checkpoint(self, run: str) -> str:
        return latest_checkpoint(self.directory / run)

    def prepare(self, source: Path, texts: Mapping[str, Path]) -> None:
        prepare(
            domains={name: str(path) for name, path in texts.items()},
            tokenizer=str(source),
            output=str(self.data),
            sequence_length=self.numbers.sequence_length,
            append_eos=self.numbers.append_eos,
        )

    def measure_references(self, source: Path) -> DomainLosses:
        numbers = self.numbers
        references = measure(
            str(source),
            str(self.data),
            str(self.references),
            numbers.evaluation_sequences,
            numbers.evaluation_micro_batch,
            device="cpu",
        )
        logger.info("%s", references)
        return references.measured

    def evaluate(self, model: Path) -> DomainLosses:
        numbers = self.numbers
        return evaluate(
            str(model),
            str(self.data),
            numbers.evaluation_sequences,
            numbers.evaluation_micro_batch,
            device="cpu",
        )

    def fit(self, run: str, stage: Stage, source: Path, overrides: Mapping[str, str]) -> CheckpointFacts:
        """Train in the folder ``run``, and give what its last checkpoint says of itself."""
        settings = {
            **overrides,
            "trainer.default_root_dir": str(self.directory / run),
            "model.source": str(source),
            "data.directory": str(self.data),
            "data.mixture.references": str(self.references),
        }
        fit(config_file(stage), settings)
        return read_facts(self.checkpoint(run))
