"""``recipe.json`` beside a model: what its card says, for programs, and the recipes of what it was made from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from shear_lit import __version__
from shear_lit.disk.names import is_elsewhere
from shear_lit.disk.reading import read_json
from shear_lit.mistakes import Mistake
from shear_lit.reporting.model_facts import ModelFacts, RepairFacts, Reproduction, Selection, TeacherFacts
from shear_lit.theory.shape import ModelShape

RECIPE = "recipe.json"
FORMAT = 2
"""What is written; format 1 did not say how units were chosen."""
_LATER = {
    "repair": RepairFacts,
    "repaired_at_start": RepairFacts,
    "teacher": TeacherFacts,
    "reproduction": Reproduction,
}
"""Facts that recipes of earlier versions lack."""
_LATER_LOSSES = ("first_losses", "references")
"""Likewise, and losses by domain."""
_PLAIN_LATER = ("device_seconds", "adapters")
"""Likewise, and a number or a word."""
_ELSEWHERE = ("earlier", "clients", "pictures")
"""Facts that are found anew: the recipes of the source stand whole, what programs read changes with them, and pictures
lie beside the recipe."""


def recipe_file(facts: ModelFacts, **more: Any) -> str:
    """The content of the file; ``more`` are facts that no card shows."""
    entries = {name: value for name, value in asdict(facts).items() if name not in _ELSEWHERE}
    source = dict(facts.earlier[0]) if facts.earlier else None
    whole = {"format": FORMAT, "shear_lit": __version__, **entries, **more, "source_recipe": source}
    return json.dumps(whole, indent=1) + "\n"


class RecipeError(Mistake):
    """A recipe that was damaged."""


def read_recipe(directory: Path) -> dict[str, Any] | None:
    """The recipe of a model that this package wrote, in either format; None where there is none.

    Raises:
        RecipeError: it cannot be read.
    """
    file = directory / RECIPE
    if not file.exists() and not file.is_symlink():
        return None
    try:
        if is_elsewhere(file, directory):
            raise ValueError("it is a link out of the directory")
        recipe = read_json(file)
        if recipe is None or not all(isinstance(each, dict) for each in _chain(recipe)):
            raise ValueError("it is no mapping, or that of its source is none")
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise RecipeError(
            f"{str(file)!r} cannot be read ({why}): it says what the model was made from. Restore it, or remove it."
        ) from error
    return recipe


def _chain(recipe: Any) -> Iterator[Any]:
    """A recipe, that of its source, and so on; the last may be no mapping."""
    while recipe is not None:
        yield recipe
        recipe = recipe.get("source_recipe") if isinstance(recipe, dict) else None


def recipes(directory: Path) -> tuple[dict[str, Any], ...]:
    """The recipe of a model, that of its source, and so on, as far as there are any."""
    return tuple(_chain(read_recipe(directory)))


def facts_of(
    recipe: Mapping[str, Any],
    *,
    selection: Selection | None,
    gates: str,
    clients: tuple[str, ...],
    pictures: tuple[str, ...] = (),
) -> ModelFacts:
    """The facts that a recipe holds; ``selection`` is how units were chosen, which format 1 lacks.

    Raises:
        KeyError, TypeError: it lacks others.
        ShapeError: a shape in it is none.
    """
    stored = {field.name for field in fields(ModelFacts)} - {
        *_ELSEWHERE,
        "selection",
        "gates",
        *_PLAIN_LATER,
        *_LATER,
        *_LATER_LOSSES,
    }
    entries = {name: recipe[name] for name in stored}
    shapes = {name: ModelShape(**entries[name]) for name in ("source_shape", "shape")}
    lists = {name: tuple(entries[name]) for name in ("lineage", "licence_files")}
    later: dict[str, Any] = {name: kind(**recipe[name]) for name, kind in _LATER.items() if recipe.get(name)}
    plain: dict[str, Any] = {name: recipe.get(name) for name in _PLAIN_LATER}
    return ModelFacts(
        **{**entries, **shapes, **lists},
        earlier=tuple(_chain(recipe.get("source_recipe"))),
        selection=selection,
        **later,
        **{name: recipe[name] for name in _LATER_LOSSES if recipe.get(name)},
        **plain,
        gates=gates,
        clients=clients,
        pictures=pictures,
    )
