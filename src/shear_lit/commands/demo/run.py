"""The steps of the demo, one after the other."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from shear_lit.commands.comparing import compared
from shear_lit.commands.comparison_cards import cards_in, put_into_cards
from shear_lit.commands.demo.directory import DemoDirectory, check_output
from shear_lit.commands.demo.generation import compare_generation
from shear_lit.commands.demo.names import REPORT, RESULTS
from shear_lit.commands.demo.numbers import DEMO, FAST
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.demo.stages import control_steps
from shear_lit.commands.demo.steps import Steps
from shear_lit.commands.demo.table import DemoResult, MeasuredModel
from shear_lit.commands.demo.talking import talked
from shear_lit.commands.demo.texts import fetch_texts
from shear_lit.commands.measuring import DomainLosses
from shear_lit.disk.writing import write_file
from shear_lit.evaluation.comparison import Comparison

SOURCE, CUT, REPAIRED = "source", "cut", "cut + repair"
CONTINUED, RANDOM = "cut + repair + training", "random cut, the same"
"""What the table calls its models."""

_STEPS = 12


def run_demo(output: Path, cache: Path, *, fast: bool, chat: bool = False) -> DemoResult:
    """Run the demo into ``output``, with the model and the text kept in ``cache``."""
    numbers = FAST if fast else DEMO
    place, step = DemoDirectory(output, numbers), Steps(_STEPS + chat)
    check_output(place.path, numbers.disk_bytes)
    with step("Fetching the source model"):
        source = fetch_source(cache)
    with step("Fetching and preparing the text of five domains"):
        place.prepare(source, fetch_texts(cache))
    with step("Measuring the source's losses, which the mixture refers to"):
        references = place.measure_references(source)
    with step("Ranking the source's units"):
        scores = place.rank(source)
    with step(
        "Repairing the ranked cut in closed form, then learning which units to keep, jointly with the weights"
    ):
        ranked = {"model.pruning.initial_scores": str(scores)}
        pruned = place.fit("prune", "prune", source, {**numbers.prune_overrides, **ranked})
        assert pruned.target is not None and pruned.repair is not None
    with step("Cutting the model to its target"):
        cut = place.export("prune", "pruned")
    with step("Training the cut model further, on text and on what the source makes of it"):
        continued = place.fit("continue", "pretrain", place.model("pruned"), numbers.continue_overrides)
        place.export("continue", "continued")
    tokens, generated = (pruned.repair[name] for name in ("tokens", "generated_tokens"))
    with step("For comparison: the same cut without repair, and one at random units with it"):
        place.cut(scores, "cut", pruned.target)
        place.cut(place.rank(source, "random"), "random-untrained", pruned.target, repair_tokens=tokens)
    with step("Training the random cut on as many tokens"):
        steps = {"trainer.max_steps": str(control_steps(pruned, continued))}
        overrides = {**numbers.continue_overrides, **steps}
        control = place.fit("control", "pretrain", place.model("random-untrained"), overrides)
        place.export("control", "random")
    models = {
        SOURCE: source,
        CUT: place.model("cut"),
        CONTINUED: place.model("continued"),
        RANDOM: place.model("random"),
    }
    with step("Measuring the losses of the new models"):
        losses = {name: place.evaluate(path) for name, path in models.items() if name != SOURCE}
    losses = {SOURCE: references, **losses}
    measured = _written(place, step, models, losses)
    with step("Comparing the models, with the errors of what sets them apart"):
        comparison = Comparison(models=tuple(compared(name, losses[name]) for name in models))
        put_into_cards(comparison, cards_in([str(path) for path in models.values()]))
    answers: dict[str, str] = {}
    if chat:
        with step("Talking to the source and to the result for ten seconds"):
            answers = talked({SOURCE: source, CONTINUED: models[CONTINUED]})
    repaired = MeasuredModel(
        name=REPAIRED,
        directory=None,
        parameters=measured[CUT].parameters,
        losses=place.first_losses("prune"),
    )
    trained = {REPAIRED: 0, CONTINUED: pruned.tokens + continued.tokens, RANDOM: control.tokens}
    order = (SOURCE, CUT, REPAIRED, CONTINUED, RANDOM)
    result = DemoResult(
        output=str(place.path),
        fast=fast,
        models=tuple(
            replace(
                {**measured, REPAIRED: repaired}[name],
                repair_tokens=tokens if name in trained else 0,
                generated_tokens=generated if name in trained else 0,
                training_tokens=trained.get(name, 0),
            )
            for name in order
        ),
        validation_sequences=numbers.evaluation_sequences,
        sequence_length=numbers.sequence_length,
        prompt=numbers.prompt,
        new_tokens=numbers.new_tokens,
        comparison=comparison,
        answers=answers,
        warnings=cut.warnings,
        seconds=step.seconds,
    )
    write_file(place.path / REPORT, f"{result}\n")
    write_file(place.path / RESULTS, json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def _written(
    place: DemoDirectory, step: Steps, models: Mapping[str, Path], losses: Mapping[str, DomainLosses]
) -> dict[str, MeasuredModel]:
    """The rows of the models that lie on disk, with the speed at which they write, and what."""
    with step("Measuring the speed of greedy generation"):
        numbers = place.numbers
        written = compare_generation(
            models, numbers.prompt, new_tokens=numbers.new_tokens, repeats=numbers.generation_repeats
        )
    return {
        name: MeasuredModel(
            name=name,
            directory=str(path),
            parameters=losses[name].parameters,
            losses=losses[name].losses,
            speeds=written[name].speeds,
            sample=written[name].text,
        )
        for name, path in models.items()
    }
