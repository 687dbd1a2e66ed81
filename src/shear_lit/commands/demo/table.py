"""What the demo found, for people and for programs; every verdict is computed from the table."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shear_lit.commands.demo.talking import QUESTION, SECONDS_EACH
from shear_lit.evaluation.comparison import Comparison
from shear_lit.evaluation.domain_loss import mean_loss
from shear_lit.evaluation.tables import markdown_table

SOURCE_WEIGHTS = (
    "The source's weights are 4-bit ones, dequantised to float32: compare with this source, "
    "not with published SmolLM2 scores."
)
FORMAT = 2
"""The version of results.json."""


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """One row of the table."""

    name: str
    """What the demo calls it."""
    directory: str | None
    """Where it lies; None: it was a moment of a run."""
    parameters: int
    """Its size."""
    losses: Mapping[str, float]
    """Nats per token, by domain."""
    repair_tokens: int = 0
    """Tokens of the text that it was repaired on here."""
    generated_tokens: int = 0
    """Tokens beside them that the source generated."""
    training_tokens: int = 0
    """Tokens that it was trained on here, over all stages."""
    speeds: tuple[float, ...] = ()
    """The speed of greedy generation at every repeat, in tokens a second."""
    sample: str | None = None
    """Its continuation of the prompt."""

    @property
    def tokens_per_second(self) -> float | None:
        """The median speed of greedy generation."""
        return statistics.median(self.speeds) if self.speeds else None

    @property
    def mean_loss(self) -> float:
        """The mean over the domains, in nats per token."""
        return mean_loss(self.losses)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One model against another."""

    model: str
    """The model that should be better."""
    against: str
    """The one that it is compared with."""
    nats_better: float
    """How much lower its mean loss is, in nats per token; negative if it is higher."""

    def __str__(self) -> str:
        size = f"{abs(self.nats_better):.3f} nats per token on average over the domains"
        if self.nats_better > 0:
            return f"{self.model} is better than {self.against}: by {size}."
        return f"{self.model} is NOT better than {self.against}: worse by {size}."


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything that the demo reports."""

    output: str
    """Its directory."""
    fast: bool
    """Whether it took only a few steps."""
    models: tuple[MeasuredModel, ...]
    """Source, cut, repaired, trained, random cut: in this order."""
    validation_sequences: int
    """Sequences of each domain that the losses were measured on."""
    sequence_length: int
    """Tokens of a sequence."""
    prompt: str
    """What the samples continue."""
    new_tokens: int
    """Tokens of one timed generation."""
    comparison: Comparison
    """Those that lie on disk side by side, with the errors of what sets them apart."""
    warnings: tuple[str, ...]
    """What the export of the pruned model found odd."""
    seconds: Mapping[str, float]
    """Wall time of every step."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """What was answered to a question, by model, where the demo was asked to talk."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The trained model against the cut, before and after repair, and against the random cut with all of it."""
        _, *before, continued, random = self.models
        return tuple(
            Verdict(
                model=continued.name,
                against=other.name,
                nats_better=other.mean_loss - continued.mean_loss,
            )
            for other in (*before, random)
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "format": FORMAT,
            **asdict(self),
            "models": [
                {**asdict(model), "mean_loss": model.mean_loss, "tokens_per_second": model.tokens_per_second}
                for model in self.models
            ],
            "comparison": self.comparison.to_dict(),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "source_weights": SOURCE_WEIGHTS,
            "total_seconds": sum(self.seconds.values()),
        }

    def __str__(self) -> str:
        return "\n\n".join(
            [
                "# The demo's result",
                *(
                    ["This was a fast run: its steps are too few to judge the method by."]
                    if self.fast
                    else []
                ),
                self._loss_table(),
                f"Losses are nats per token, on the same {self.validation_sequences} validation sequences of "
                f"{self.sequence_length} tokens of every domain, which no run has trained on. tokens/s: greedy "
                f"generation of {self.new_tokens} tokens, one sequence, median of {len(self.models[0].speeds)} "
                f"repeats that alternate over the models.",
                f"Text: {self.models[3].repair_tokens:,} tokens to rank units and repair the cut on, beside "
                f"{self.models[3].generated_tokens:,} that the source generated, and "
                f"{self.models[3].training_tokens:,} to train on, of which some may be the same as those to repair on; "
                "each was read once for either.",
                SOURCE_WEIGHTS,
                "\n".join(
                    [
                        *(f"- {verdict}" for verdict in self.verdicts),
                        *(f"- WARNING: {warning}" for warning in self.warnings),
                    ]
                ),
                "## The models compared",
                "From the losses measured above, as `shear-lit compare` shows it; device-hours are of training.",
                *(table.in_markdown(3) for table in self.comparison.tables()),
                f'## What each writes after "{self.prompt}"',
                "\n".join(
                    f"- {model.name}: {' '.join(model.sample.split())}"
                    for model in self.models
                    if model.sample is not None
                ),
                *self._answers(),
                "## How long each step took",
                self._time_table(),
                "## Where it is",
                self._places(),
            ]
        )

    def _answers(self) -> list[str]:
        if not self.answers:
            return []
        said = "\n".join(f"- {name}: {' '.join(text.split())}" for name, text in self.answers.items())
        return [f'## What each answers to "{QUESTION}" in {SECONDS_EACH:g} seconds', said]

    def _loss_table(self) -> str:
        domains = list(self.models[0].losses)
        rows = [
            [
                model.name,
                f"{model.parameters:,}",
                f"{model.repair_tokens:,}",
                f"{model.training_tokens:,}",
                *(f"{model.losses[domain]:.3f}" for domain in domains),
                f"{model.mean_loss:.3f}",
                "-" if model.tokens_per_second is None else f"{model.tokens_per_second:.1f}",
            ]
            for model in self.models
        ]
        return markdown_table(
            ["model", "parameters", "repaired on", "trained on", *domains, "mean", "tokens/s"], rows
        )

    def _time_table(self) -> str:
        rows = [[name, f"{seconds:.0f}"] for name, seconds in self.seconds.items()]
        return markdown_table(["step", "seconds"], [*rows, ["total", f"{sum(self.seconds.values()):.0f}"]])

    def _places(self) -> str:
        continued = self.models[3]
        return "\n".join(
            [
                *(
                    f"- {model.name}: {model.directory}"
                    for model in self.models
                    if model.directory is not None
                ),
                f"- curves of all three runs: `tensorboard --logdir {self.output}`",
                f"- this page: {self.output}/report.md; for programs: {self.output}/results.json",
                "- the next command: "
                f"`python -m shear_lit evaluate --model={continued.directory} --data={self.output}/data`",
                "- the comparison again, with speeds: `python -m shear_lit compare "
                f"{' '.join(model.directory for model in self.models if model.directory)} --data={self.output}/data`",
                "- to use the model, with transformers alone:",
                "",
                "```python",
                "from transformers import AutoModelForCausalLM, AutoTokenizer",
                f'model = AutoModelForCausalLM.from_pretrained("{continued.directory}")',
                f'tokenizer = AutoTokenizer.from_pretrained("{continued.directory}")',
                "```",
            ]
        )
