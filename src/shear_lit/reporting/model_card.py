"""The page that tells a reader of an exported model what it is, where it comes from and how to use it."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from shear_lit.ranking.scores import LEARNED
from shear_lit.reporting.card_pictures import LOSS_PICTURE, SHAPE_PICTURE
from shear_lit.reporting.model_facts import ModelFacts, RepairFacts, Reproduction, Selection

_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@.*)?")
_PAPER = "[Sheared LLaMA](https://arxiv.org/abs/2310.06694) (Xia et al., 2023)"
CARD = "README.md"
"""Its name beside a model."""
_PICTURES = {
    SHAPE_PICTURE: "The source, block by block, with what stays of it, and the model that is left",
    LOSS_PICTURE: "Losses while it was trained",
}
"""What is said of a picture to those who do not see it."""
_HERE = "<this directory>"


def model_card(facts: ModelFacts) -> str:
    """The card, in Markdown with the front matter that the hub reads."""
    sections = [
        f"# {facts.name}\n\n{_origin(facts)}",
        f"## Shape\n\n{_shape_table(facts)}",
        f"## Recipe\n\n{_recipe(facts)}",
        f"## Losses\n\n{_losses(facts)}",
        *([f"## Made again\n\n{_made_again(facts, facts.reproduction)}"] if facts.reproduction else []),
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
    learned = facts.selection.criterion == LEARNED
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
    table = "\n".join(["| | source | this model |", "|---|---:|---:|", *rows, parameters])
    return f"{table}{_picture(facts, SHAPE_PICTURE)}"


def _picture(facts: ModelFacts, name: str) -> str:
    return f"\n\n![{_PICTURES[name]}]({name})" if name in facts.pictures else ""


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
    if selection.criterion == LEARNED:
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
    columns = {
        "before the first step": facts.first_losses,
        "now": facts.losses,
        "reference": facts.references,
    }
    shown = {name: losses for name, losses in columns.items() if losses}
    rows = [
        f"| {domain} | {' | '.join(_loss(losses.get(domain)) for losses in shown.values())} |"
        for domain in facts.losses
    ]
    heads = [f"| domain | {' | '.join(shown)} |", f"|---{'|---:' * len(shown)}|"]
    table = "\n".join([f"Validation losses {when}, in nats per token:", "", *heads, *rows])
    return f"{table}{_picture(facts, LOSS_PICTURE)}"


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _made_again(facts: ModelFacts, known: Reproduction) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in known.versions.items())
    processes = f"{known.processes} process{'es' * (known.processes != 1)}" if known.processes else ""
    where = ", ".join(filter(None, [processes, known.device]))
    lines = [
        "```bash",
        *known.commands,
        "```",
        "",
        "Files that are named without a folder lie beside this card; paths are those of the machine that it was made "
        "on.",
        "",
        *([f"- commit of the code: `{known.commit}`"] if known.commit else []),
        *([f"- versions: {versions}"] if versions else []),
        f"- fingerprint of the source: `{facts.source_fingerprint}`",
        *(
            [f"- fingerprint of the prepared data: `{known.data_fingerprint}`"]
            if known.data_fingerprint
            else []
        ),
        *([f"- ran on: {where}"] if where else []),
    ]
    return "\n".join(lines)


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
