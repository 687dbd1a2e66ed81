"""What is known of an exported model, as its card tells people and its recipe tells programs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shear_lit.theory.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the units that a cut keeps were chosen."""

    criterion: str
    """Its short name; ``learned`` for gates that were trained."""
    meaning: str
    """The same in words, after "by"; for gates that were trained, what they were ordered by at the start, or empty."""
    data_fingerprint: str | None = None
    """Fingerprint of the prepared data that a ranking was measured on, if it was."""
    sequences: int | None = None
    """Sequences of it, where they were recorded."""
    tokens: int | None = None
    """Their tokens."""


@dataclass(frozen=True, kw_only=True)
class RepairFacts:
    """The repair of a cut."""

    tokens: int
    """Tokens that it was fitted to, or judged by."""
    sequences: int
    """Sequences that they are of."""
    generated_tokens: int = 0
    """Tokens beside them that the source generated."""
    data_fingerprint: str
    """Fingerprint of the prepared data."""
    parts: str
    """What was to be refitted."""
    weights: int
    """Weights that were tried."""
    refitted: int
    """Those that came closer to the source on text held out; the others stayed."""
    stages: int = 0
    """Stages of a fall of sizes of which each cut was repaired, the last of them as said here; 0: it was one cut."""

    def __str__(self) -> str:
        written = f" and {self.generated_tokens:,} that the source generated" if self.generated_tokens else ""
        where = f"at the last of {self.stages} stages of the fall of sizes, " if self.stages else ""
        return (
            f"{where}{self.refitted} of {self.weights} weights were refitted in closed form towards the source "
            f"({self.parts}), on {self.tokens:,} tokens ({self.sequences:,} sequences) of prepared data with the "
            f"fingerprint `{self.data_fingerprint[:16]}`{written}."
        )


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What a run learned from besides the text."""

    name: str
    """The frozen model."""
    fingerprint: str
    """``source_fingerprint`` of it."""
    objective: str
    """The kind of divergence."""
    temperature: float
    weight: float
    """Of the divergence."""
    language_weight: float
    """Of cross-entropy."""
    layers_weight: float = 0.0
    """Of the distance of the streams behind blocks."""
    kept: str = ""
    """What a cache had of its distributions; empty where it was asked in every step."""

    def __str__(self) -> str:
        text = f" and cross-entropy (weight {self.language_weight:g})" if self.language_weight else " alone"
        text += f", streams behind blocks (weight {self.layers_weight:g})" if self.layers_weight else ""
        text += f"; asked before, {self.kept.replace('_', ' ')} kept" if self.kept else ""
        kind = self.objective.replace("_", " ")
        return (
            f"`{self.name}`, fingerprint `{self.fingerprint[:16]}`: {kind} at temperature {self.temperature:g} "
            f"(weight {self.weight:g}){text}"
        )


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How a model can be made again."""

    commands: tuple[str, ...]
    """What to type, in this order."""
    versions: Mapping[str, str]
    """Packages and Python that made it."""
    commit: str | None = None
    """Commit of the code, where it ran from a checkout."""
    data_fingerprint: str | None = None
    """Fingerprint of the prepared data of its run."""
    processes: int | None = None
    """Processes of its run."""
    device: str | None = None
    """What they computed on."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model card says."""

    name: str
    """Name of the model: of its directory."""
    source: str
    """Directory of the model that it was made from, or ``organisation/model@commit``."""
    lineage: tuple[str, ...]
    """What the source itself was made from, nearest first, where its ``recipe.json`` says so."""
    source_fingerprint: str
    """Hash of the source's config and weights."""
    licence: Mapping[str, str]
    """The source's licence, as its own card states it; empty where it does not."""
    licence_files: tuple[str, ...]
    """Licence files that lie beside the model."""
    source_shape: ModelShape
    """Shape of the source."""
    shape: ModelShape
    """Shape of this model."""
    source_parameters: int
    """Parameters of the source."""
    parameters: int
    """Parameters of this model."""
    dtype: str
    """What the weights are stored in."""
    selection: Selection | None
    """How its units were chosen; None where nothing was cut from the source."""
    repair: RepairFacts | None = None
    """How the cut was repaired, if it was."""
    repaired_at_start: RepairFacts | None = None
    """How the cut was repaired that the run started from, if it was."""
    teacher: TeacherFacts | None = None
    """What the run learned from besides the text, if anything."""
    earlier: tuple[Mapping[str, Any], ...]
    """The ``recipe.json`` of the source, and of the source of that, as far as they have one."""
    step: int
    """Optimizer steps of the run; 0 where the source was cut as it was."""
    tokens: int
    """Tokens of the run."""
    domains: Mapping[str, Any]
    """What the run knows of its domains."""
    losses: Mapping[str, float]
    """Validation losses by domain, in nats per token."""
    first_losses: Mapping[str, float] = field(default_factory=dict)
    """Those that were found before the first step, as far as they are known."""
    references: Mapping[str, float] = field(default_factory=dict)
    """What they should reach, as far as the run has references."""
    reproduction: Reproduction | None = None
    """How it can be made again; None where an earlier version wrote it."""
    device_seconds: float | None = None
    """Seconds that the run kept its devices, all together; None where it is not known."""
    adapters: str | None = None
    """What the run trained beside the weights, which was added to them; None where it trained these."""
    gated_difference: float | None
    """Largest difference of gated and carved logits, relative to the largest; None where nothing was cut."""
    gates: str
    """Name of the file of gates beside the model."""
    clients: tuple[str, ...]
    """What programs make of it, a line each; empty where none was tried with such a model."""
    pictures: tuple[str, ...] = ()
    """Names of the pictures beside the model."""
