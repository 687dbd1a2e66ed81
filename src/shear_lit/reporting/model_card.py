"""The page that tells a reader of an exported model what it is, where it comes from and how to use it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from shear_lit.theory.shape import ModelShape

_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@.*)?")
_LEARNED = "learned"
_PAPER = "[Sheared LLaMA](https://arxiv.org/abs/2310.06694) (Xia et al., 2023)"


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


def model_card(facts: ModelFacts) -> str:
    """The card, in Markdown with the front matter that the hub reads."""
    sections = [
        f"# {facts.name}\n\n{_origin(facts)}",
        f"## Shape\n\n{_shape_table(facts)}",
        f"## Recipe\n\n{_recipe(facts)}",
        f"## Losses\n\n{_losses(facts)}",
        f"## Verified when it was written\n\n{_verification(facts)}",
        f"## Programs\n\n{_clients(facts)}",
        f"## Deviations\n\n{_DEVIATIONS}",
        f"## Use\n\n{_use(facts)}",
        f"## Licence\n\n{_licence(facts)}",
    ]
    body = "\n\n".join(sections)
    return str(ModelCard(f"---\n{_front_matter(facts).to_yaml()}\n---\n\n{body}\n"))


def _front_matter(facts: ModelFacts) -> ModelCardData:
    named = (_HUB_NAME.fullmatch(name) for name in (facts.source, *facts.lineage))
    hub_names = [found[1] for found in named if found]
    return ModelCardData(
        license=facts.licence.get("license"),
        license_name=facts.licence.get("license_name"),
        license_link=facts.licence.get("license_link"),
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=hub_names[0] if hub_names else None,
        tags=["sheared-llama", "pruned"],
    )


def _origin(facts: ModelFacts) -> str:
    names = [f"`{name}`" for name in facts.lineage]
    earlier = f" `{facts.source}` was itself made from {', that from '.join(names)}." if names else ""
    if facts.selection is None:
        return f"`{facts.source}` ({facts.parameters:,} parameters), trained further after {_PAPER}.{earlier}"
    size = (
        f"It has {facts.parameters:,} parameters of the source's {facts.source_parameters:,} "
        f"({facts.parameters / facts.source_parameters:.1%})."
    )
    learned = facts.selection.criterion == _LEARNED
    how = (
        f"with learned gates, after {_PAPER}"
        if learned
        else f"at {_chosen(facts.selection)}, without learned gates"
    )
    return f"A dense model cut out of `{facts.source}` by structured pruning {how}. {size}{earlier}"


def _chosen(selection: Selection) -> str:
    if selection.criterion == "random":
        return "units that were drawn by lot"
    return f"the units that rank highest by {selection.meaning} (`{selection.criterion}`)"


def _shape_table(facts: ModelFacts) -> str:
    before, after = facts.source_shape.to_dict(), facts.shape.to_dict()
    rows = [f"| {axis.replace('_', ' ')} | {before[axis]:,} | {after[axis]:,} |" for axis in before]
    parameters = f"| parameters | {facts.source_parameters:,} | {facts.parameters:,} |"
    return "\n".join(["| | source | this model |", "|---|---:|---:|", *rows, parameters])


def _when(repair: RepairFacts) -> str:
    return f"{'while its sizes fell' if repair.stages else 'before its training'}: {repair}"


def _recipe(facts: ModelFacts) -> str:
    lines = [
        f"- source: `{facts.source}`, fingerprint `{facts.source_fingerprint[:16]}`",
        *([f"- units: {_units(facts.selection, facts.step, facts.tokens)}"] if facts.selection else []),
        *([f"- repair: {facts.repair} Weight by weight: `repair.md`"] if facts.repair else []),
        *([f"- repair {_when(facts.repaired_at_start)}"] if facts.repaired_at_start else []),
        f"- {_training(facts)}",
        *([f"- trained beside the weights, and added to them: {facts.adapters}"] if facts.adapters else []),
        *([f"- teacher: {facts.teacher}"] if facts.teacher else []),
        *(f"- before that, `{recipe.get('name')}`: {_earlier(recipe)}" for recipe in facts.earlier),
        f"- weights stored in {facts.dtype}",
        "- all of it, for programs: `recipe.json`"
        + (f"; the gates and the units they kept: `{facts.gates}`, `gates.json`" if facts.selection else ""),
    ]
    return "\n".join(lines)


def _units(selection: Selection, step: int, tokens: int) -> str:
    if selection.criterion == _LEARNED:
        start = f" from the order of {selection.meaning}" if selection.meaning else ""
        return f"chosen by gates that learned{start} for {step:,} steps on {tokens:,} tokens, jointly with the weights"
    if selection.data_fingerprint is None:
        return _chosen(selection)
    if selection.tokens is None:
        amount = "text (how much was not recorded)"
    else:
        amount = f"{selection.tokens:,} tokens ({selection.sequences:,} sequences)"
    return (
        f"{_chosen(selection)}, measured on {amount} of prepared data with the fingerprint "
        f"`{selection.data_fingerprint[:16]}`"
    )


def _training(facts: ModelFacts) -> str:
    if facts.step == 0:
        return "training: none, its weights are those of the source"
    domains = ", ".join(facts.domains) or "domains that were not recorded"
    cost = "" if facts.device_seconds is None else f", in {facts.device_seconds / 3600:,.2f} device-hours"
    return f"training: {facts.step:,} steps on {facts.tokens:,} tokens of {domains}{cost}"


def _earlier(recipe: Mapping[str, Any]) -> str:
    """One line of what a ``recipe.json`` says, of this version or of one before it."""
    shape = ", ".join(f"{name}={size}" for name, size in recipe.get("shape", {}).items())
    step, tokens, selection = recipe.get("step", 0), recipe.get("tokens", 0), recipe.get("selection")
    trained = f"{step:,} steps on {tokens:,} tokens" if step else "no training"
    chosen = f"; units: {_units(Selection(**selection), step, tokens)}" if selection else ""
    return f"{shape}; {trained}{chosen}"


def _losses(facts: ModelFacts) -> str:
    if not facts.losses:
        return "None were measured: this model was not validated when it was written."
    when = (
        "of the gated model at this step, before the cut at exactly the target"
        if facts.selection
        else "at this step"
    )
    rows = [f"| {domain} | {loss:.4f} |" for domain, loss in facts.losses.items()]
    return "\n".join([f"Validation losses {when}:", "", "| domain | nats per token |", "|---|---:|", *rows])


def _verification(facts: ModelFacts) -> str:
    lines = [
        f"- read back by stock `transformers`: parameters and logits equal, bit for bit, in {facts.dtype}"
    ]
    if facts.gated_difference is not None:
        figure = f"{facts.gated_difference:.2g}"
        lines.append(
            f"- model with gates against this model, in float32: max logit difference {figure} of the scale"
        )
    return "\n".join(lines)


def _clients(facts: ModelFacts) -> str:
    if not facts.clients:
        return "None was tried with models of this kind. `shear-lit verify <this directory>` tries those you have."
    return "\n".join(
        [
            "Small models of this kind, cut on all axes, were loaded with these programs, and their logits compared "
            "(`shear-lit verify <this directory>` does so with this one):",
            "",
            *(f"- {line}" for line in facts.clients),
        ]
    )


_DEVIATIONS = (
    "Made with `shear_lit`, which differs from the paper's text and from its authors' release in numbered points; "
    "its `docs/deviations.md` gives the reason, the measured effect and the switch of each. Those that touch "
    "weights: gates act on the embedding in training as they do in the cut (D2), and are folded into the last "
    "norm or the head once (D3)."
)


def _use(facts: ModelFacts) -> str:
    after = "It was only pruned: continue its pre-training before judging it. " if facts.selection else ""
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("<this directory>")\n'
        'tokenizer = AutoTokenizer.from_pretrained("<this directory>")\n'
        "```\n\n"
        f"{after}To continue pre-training: `shear-lit fit --config configs/pretrain/<config>.yaml "
        "--model.source <this directory>`."
    )


def _licence(facts: ModelFacts) -> str:
    stated = facts.licence.get("license_name") or facts.licence.get("license")
    files = f" Carried over from it: {', '.join(facts.licence_files)}." if facts.licence_files else ""
    if stated:
        return f"The source's licence holds for this model, too: {stated}.{files}"
    return f"The source's directory states no licence in a card.{files} Find out which holds before you pass it on."
