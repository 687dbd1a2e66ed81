"""The steps of the demo, one after the other."""

import json
from collections.abc import Mapping
from pathlib import Path

from shear_lit.commands.demo.control import write_random_cut
from shear_lit.commands.demo.directory import REPORT, RESULTS, DemoDirectory, check_output
from shear_lit.commands.demo.generation import compare_generation
from shear_lit.commands.demo.numbers import DEMO, FAST
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.demo.stages import control_steps
from shear_lit.commands.demo.steps import Steps
from shear_lit.commands.demo.table import DemoResult, MeasuredModel
from shear_lit.commands.demo.texts import fetch_texts
from shear_lit.commands.measuring import DomainLosses
from shear_lit.disk.writing import write_file
from shear_lit.training.checkpoints import CheckpointFacts

SOURCE, PRUNED, CONTINUED, RANDOM = "source", "pruned", "pruned + continued", "random cut, same training"
"""What the table calls its models."""

_STEPS = 10


def run_demo(output: Path, cache: Path, *, fast: bool) -> DemoResult:
    """Run the demo into ``output``, with the model and the text kept in ``cache``."""
    numbers = FAST if fast else DEMO
    place, step = DemoDirectory(output, numbers), Steps(_STEPS)
    check_output(place.path, numbers.disk_bytes)
    with step("Fetching the source model"):
        source = fetch_source(cache)
    with step("Fetching and preparing the text of five domains"):
        place.prepare(source, fetch_texts(cache))
    with step("Measuring the source's losses, which the mixture refers to"):
        references = place.measure_references(source)
    with step("Pruning: learning which units to keep, jointly with the weights"):
        pruned = place.fit("prune", "prune", source, numbers.prune_overrides)
    with step("Cutting the model to its target"):
        cut = place.export("prune", "pruned")
    with step("Continuing the pre-training of the cut model"):
        continued = place.fit("continue", "pretrain", place.model("pruned"), numbers.continue_overrides)
        place.export("continue", "continued")
    with step("Cutting the source at random units to the same shape"):
        untrained = place.model("random-untrained")
        write_random_cut(str(source), cut.shape, untrained, seed=numbers.control_seed)
    with step("Training the random cut on as many tokens"):
        steps = {"trainer.max_steps": str(control_steps(pruned, continued))}
        control = place.fit("control", "pretrain", untrained, {**numbers.continue_overrides, **steps})
        place.export("control", "random")
    models = {SOURCE: source}
    models |= {
        PRUNED: place.model("pruned"),
        CONTINUED: place.model("continued"),
        RANDOM: place.model("random"),
    }
    measured = _measure(place, step, models, references, _training_tokens(pruned, continued, control))
    result = DemoResult(
        output=str(place.path),
        fast=fast,
        models=measured,
        validation_sequences=numbers.evaluation_sequences,
        sequence_length=numbers.sequence_length,
        prompt=numbers.prompt,
        new_tokens=numbers.new_tokens,
        warnings=cut.warnings,
        seconds=step.seconds,
    )
    write_file(place.path / REPORT, f"{result}\n")
    write_file(place.path / RESULTS, json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def _training_tokens(
    pruned: CheckpointFacts, continued: CheckpointFacts, control: CheckpointFacts
) -> dict[str, int]:
    """Tokens that each model was trained on here, over all its stages."""
    return {
        SOURCE: 0,
        PRUNED: pruned.tokens,
        CONTINUED: pruned.tokens + continued.tokens,
        RANDOM: control.tokens,
    }


def _measure(
    place: DemoDirectory,
    step: Steps,
    models: Mapping[str, Path],
    references: DomainLosses,
    tokens: Mapping[str, int],
) -> tuple[MeasuredModel, ...]:
    """The rows of the table; the source's losses are the references."""
    with step("Measuring the losses of the three new models"):
        losses = {SOURCE: references}
        losses |= {name: place.evaluate(path) for name, path in models.items() if name != SOURCE}
    with step("Measuring the speed of greedy generation"):
        numbers = place.numbers
        written = compare_generation(
            models, numbers.prompt, new_tokens=numbers.new_tokens, repeats=numbers.generation_repeats
        )
    return tuple(
        MeasuredModel(
            name=name,
            directory=str(path),
            parameters=losses[name].parameters,
            training_tokens=tokens[name],
            losses=losses[name].losses,
            tokens_per_second=written[name].tokens_per_second,
            speeds=written[name].speeds,
            sample=written[name].text,
        )
        for name, path in models.items()
    )
