"""The demo's directory: where everything lies, and the commands that fill it, given the demo's numbers."""

import csv
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from shear_lit.commands.demo.errors import DemoError
from shear_lit.commands.demo.numbers import DemoNumbers
from shear_lit.commands.demo.stages import Stage, config_file, fit
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.export import export
from shear_lit.commands.exporting import ExportResult
from shear_lit.commands.measuring import DomainLosses
from shear_lit.commands.prepare import prepare
from shear_lit.commands.rank import rank
from shear_lit.commands.reference import measure
from shear_lit.models.choices import Criterion
from shear_lit.theory.shape import ModelShape
from shear_lit.training.checkpoints import CheckpointFacts, read_facts
from shear_lit.training.run_checkpoints import latest_checkpoint
from shear_lit.training.run_files import METRICS

logger = logging.getLogger(__name__)


def check_output(directory: Path, needed_bytes: int) -> None:
    """Refuse a directory that holds something, or whose disk is too small, before anything is fetched.

    Raises:
        DemoError: it is not empty, or the disk is too small.
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


class DemoDirectory:
    """``data/``, ``references.yaml``, a folder for each run, ``models/``, and the report."""

    def __init__(self, path: Path, numbers: DemoNumbers, device: Literal["cpu", "cuda"] = "cpu") -> None:
        self.path, self.numbers, self.device = path, numbers, device
        self.data, self.references = path / "data", path / "references.yaml"

    def model(self, name: str) -> Path:
        """Where a model of the demo lies."""
        return self.path / "models" / name

    def prepare(self, source: Path, texts: Mapping[str, Path]) -> None:
        """Tokenise and pack the texts."""
        prepare(
            domains={name: str(path) for name, path in texts.items()},
            tokenizer=str(source),
            output=str(self.data),
            sequence_length=self.numbers.sequence_length,
        )

    def measure_references(self, source: Path) -> DomainLosses:
        """Measure the source's losses, and write them for the mixture."""
        sizes = self.numbers.evaluation_sequences, self.numbers.evaluation_micro_batch
        references = measure(str(source), str(self.data), str(self.references), *sizes, device=self.device)
        assert references is not None, "there is one process"
        logger.info("%s", references)
        return references.measured

    def evaluate(self, model: Path) -> DomainLosses:
        """Measure a model's losses on the sequences on which the source's were measured."""
        sizes = self.numbers.evaluation_sequences, self.numbers.evaluation_micro_batch
        losses = evaluate(str(model), str(self.data), *sizes, device=self.device)
        assert losses is not None, "there is one process"
        return losses

    def rank(self, source: Path, criterion: Criterion = "default") -> Path:
        """Order the source's units, and give the file of the scores."""
        scores, numbers = self.path / f"scores-{criterion}.safetensors", self.numbers
        data = None if criterion == "random" else str(self.data)
        rank(
            str(source),
            str(scores),
            criterion,
            data,
            sequences_per_domain=numbers.ranking_sequences,
            device=self.device,
            seed=numbers.control_seed,
        )
        return scores

    def cut(self, scores: Path, name: str, target: ModelShape, *, repair_tokens: int = 0) -> ExportResult:
        """Cut the source at the best units of a ranking, repaired on so many tokens or not."""
        repair = {"repair": str(self.data), "repair_tokens": repair_tokens, "device": self.device}
        chosen: dict[str, Any] = repair if repair_tokens else {}
        exported = export(gates=str(scores), output=str(self.model(name)), target=target, **chosen)
        logger.info("%s", exported)
        return cast(ExportResult, exported)

    def first_losses(self, run: str) -> dict[str, float]:
        """The losses by domain that a run found before its first step."""
        prefix, losses = "loss/validation/", {}
        with (self.path / run / METRICS).open() as file:
            for row in csv.DictReader(file):
                name = row["name"].removeprefix(prefix)
                if row["step"] == "0" and row["name"].startswith(prefix) and name != "mean":
                    losses[name] = float(row["value"])
        return losses

    def fit(self, run: str, stage: Stage, source: Path, overrides: Mapping[str, str]) -> CheckpointFacts:
        """Train ``source`` in the folder ``run``, and give what its last checkpoint says of itself."""
        paths = {
            "trainer.default_root_dir": str(self.path / run),
            "trainer.accelerator": self.device,
            "model.source": str(source),
            "data.directory": str(self.data),
            "data.mixture.references": str(self.references),
        }
        fit(config_file(stage), {**overrides, **paths})
        return read_facts(latest_checkpoint(self.path / run))

    def export(self, run: str, name: str) -> ExportResult:
        """Export the last checkpoint of the folder ``run``."""
        exported = export(latest_checkpoint(self.path / run), str(self.model(name)))
        logger.info("%s", exported)
        return cast(ExportResult, exported)
