"""The page that tells a reader of an exported model what it is, where it comes from and how to use it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from shear_lit.theory.shape import ModelShape

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PAPER = "[Sheared LLaMA](https://arxiv.org/abs/2310.06694) (Xia et al., 2023)"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model card says."""

    name: str
    """Name of the model: of its directory."""
    source: str
    """Name or directory of the model that it was made from."""
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
    step: int
    """Optimizer steps of the run."""
    tokens: int
    """Tokens of the run."""
    domains: Mapping[str, Any]
    """What the run knows of its domains."""
    losses: Mapping[str, float]
    """Validation losses by domain, in nats per token."""
    gated_difference: float | None
    """Largest difference of gated and carved logits, relative to the largest; None where nothing was cut."""


def model_card(facts: ModelFacts) -> str:
    """The card, in Markdown with the front matter that the hub reads."""
    sections = [
        _front_matter(facts),
        f"# {facts.name}\n\n{_origin(facts)}",
        f"## Shape\n\n{_shape_table(facts)}",
        f"## Recipe\n\n{_recipe(facts)}",
        f"## Losses\n\n{_losses(facts)}",
        f"## Verified when it was written\n\n{_verification(facts)}",
        f"## Deviations\n\n{_deviations(facts)}",
        f"## Use\n\n{_use(facts)}",
        f"## Licence\n\n{_licence(facts)}",
    ]
    return "\n\n".join(sections) + "\n"


def _pruned(facts: ModelFacts) -> bool:
    return facts.gated_difference is not None


def _front_matter(facts: ModelFacts) -> str:
    entries: dict[str, Any] = {
        **facts.licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    hub_names = [name for name in (facts.source, *facts.lineage) if _HUB_NAME.fullmatch(name)]
    if hub_names:
        entries["base_model"] = hub_names[0]
    entries["tags"] = ["sheared-llama", "pruned"]
    return f"---\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).strip()}\n---"


def _origin(facts: ModelFacts) -> str:
    names = [f"`{name}`" for name in facts.lineage]
    earlier = f" `{facts.source}` was itself made from {', that from '.join(names)}." if names else ""
    if _pruned(facts):
        return (
            f"A dense model cut out of `{facts.source}` by structured pruning with learned gates, after {_PAPER}. "
            f"It has {facts.parameters:,} parameters of the source's {facts.source_parameters:,} "
            f"({facts.parameters / facts.source_parameters:.1%}).{earlier}"
        )
    return f"`{facts.source}` ({facts.parameters:,} parameters), trained further after {_PAPER}.{earlier}"


def _shape_table(facts: ModelFacts) -> str:
    before, after = facts.source_shape.to_dict(), facts.shape.to_dict()
    rows = [f"| {axis.replace('_', ' ')} | {before[axis]:,} | {after[axis]:,} |" for axis in before]
    parameters = f"| parameters | {facts.source_parameters:,} | {facts.parameters:,} |"
    return "\n".join(["| | source | this model |", "|---|---:|---:|", *rows, parameters])


def _recipe(facts: ModelFacts) -> str:
    lines = [
        f"- source: `{facts.source}`, fingerprint `{facts.source_fingerprint[:16]}`",
        f"- trained for {facts.step:,} steps on {facts.tokens:,} tokens",
        f"- domains: {', '.join(facts.domains) or 'not recorded'}",
        f"- weights stored in {facts.dtype}",
        "- all of it, for programs: `recipe.json`"
        + ("; the gates and the units they kept: `gates.safetensors`" if _pruned(facts) else ""),
    ]
    return "\n".join(lines)


def _losses(facts: ModelFacts) -> str:
    if not facts.losses:
        return "No validation losses were recorded in the checkpoint."
    when = (
        "of the gated model at this step, before the cut at exactly the target"
        if _pruned(facts)
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


def _deviations(facts: ModelFacts) -> str:
    return (
        "Made with `shear_lit`, which differs from the paper's text and from its authors' release in numbered points; "
        "its `docs/deviations.md` gives the reason, the measured effect and the switch of each. Those that touch "
        "weights: gates act on the embedding in training as they do in the cut (D2), and are folded into the last "
        "norm or the head once (D3)."
    )


def _use(facts: ModelFacts) -> str:
    after = "It was only pruned: continue its pre-training before judging it. " if _pruned(facts) else ""
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
