"""The demo's numbers that are in none of its two YAML files, and what ``--fast`` changes in those."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class DemoNumbers:
    """Sizes of the demo; steps and learning rates are in configs/{prune,pretrain}/smollm2-demo.yaml."""

    sequence_length: int = 128
    """Tokens per packed sequence."""
    evaluation_sequences: int = 16
    """Validation sequences of each domain on which references and all models of the table are measured."""
    evaluation_micro_batch: int = 8
    """Sequences of one forward pass of these measurements."""
    prompt: str = "The court held that the defendant"
    """What every model continues."""
    new_tokens: int = 48
    """Tokens of one greedy generation."""
    generation_repeats: int = 5
    """Timed generations per model; the median is reported."""
    control_seed: int = 17
    """Seed of the random cut."""
    ranking_sequences: int = 16
    """Sequences of each domain on which units are ranked."""
    prune_overrides: Mapping[str, str] = field(default_factory=dict)
    """Keys of the pruning configuration that are set otherwise than in its file."""
    continue_overrides: Mapping[str, str] = field(default_factory=dict)
    """Keys of the continued pre-training's configuration that are set otherwise than in its file."""
    disk_bytes: int = 6_000_000_000
    """What the output directory takes at most: three checkpoints, three models and the data."""


DEMO = DemoNumbers()
"""The whole demo: within half an hour on two cores."""

FAST = replace(
    DEMO,
    evaluation_sequences=8,
    generation_repeats=3,
    prune_overrides={
        "trainer.max_steps": "6",
        "model.pruning.repair.tokens": "10240",
        "model.optimizer.warmup_steps": "2",
        "data.validation_sequences": "8",
        "data.mixture.update_every_steps": "6",
    },
    continue_overrides={
        "trainer.max_steps": "6",
        "model.optimizer.warmup_steps": "2",
        "data.validation_sequences": "4",
        "data.mixture.update_every_steps": "6",
    },
)
"""The same path in about seven minutes: too few steps to judge the method by."""
