"""Exports of earlier versions, rewritten so that all programs read them right."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from shear_lit.commands.carding import selection_of
from shear_lit.disk.names import expanded
from shear_lit.models import clients
from shear_lit.models.directories import DirectoryError, same_file
from shear_lit.models.huggingface import SourceError, read_config, read_model, tensor_names
from shear_lit.models.mending import check_is_model, mend_config, mend_names, mend_tokenizer
from shear_lit.models.verification import check_same_model
from shear_lit.pruning.artefact import GATES, GATES_BEFORE, gates_in
from shear_lit.ranking.scores import LEARNED, ScoresError, read_scores
from shear_lit.reporting.card_comparison import comparison_in, with_comparison
from shear_lit.reporting.card_pictures import LOSS_PICTURE, SHAPE_PICTURE
from shear_lit.reporting.model_card import CARD, model_card
from shear_lit.reporting.model_facts import Selection
from shear_lit.reporting.recipe import RECIPE, facts_of, read_recipe, recipe_file

_OURS = "`shear_lit`"
_ARTEFACTS = {GATES_BEFORE: GATES, "kept.safetensors": "kept.shear"}
"""Files that lay beside models under names that programs take for weights, and their names now."""


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What was changed."""

    directory: str
    """The directory."""
    files: tuple[str, ...]
    """Files that were written anew, or renamed."""

    def __str__(self) -> str:
        if not self.files:
            return f"{self.directory}: nothing to mend"
        return f"{self.directory}: mended {', '.join(self.files)}; its logits are what they were, bit for bit"


def mend_export(directory: str, source: str | None) -> Mended:
    """Mend a directory; ``mend`` says what the arguments are."""
    place = expanded(directory)
    check_is_model(place)
    config = read_config(str(place))
    recipe = read_recipe(place)
    names = _source_names(source, None if recipe is None else str(recipe.get("source")))
    if gates_in(place).is_file():
        _check_gates(gates_in(place))
    with _workshop(place) as shop:
        written = [
            *(["config.json"] if mend_config(place, shop) else []),
            *(["tokenizer_config.json"] if mend_tokenizer(place, shop) else []),
            *mend_names(place, shop, names),
        ]
        artefacts = {old: new for old, new in _ARTEFACTS.items() if (place / old).is_file()}
        if recipe is not None and (written or artefacts or recipe.get("format") == 1):
            written += _write_card(place, shop, recipe)
        if not written and not artefacts:
            return Mended(directory=directory, files=())
        _check(place, shop, written, vocabulary=config.vocab_size)
        for name in written:
            (shop / name).replace(place / name)
        for old, new in artefacts.items():
            (place / old).replace(place / new)
    return Mended(directory=directory, files=(*written, *artefacts.values()))


def _source_names(source: str | None, recorded: str | None) -> frozenset[str]:
    """The names of the source's tensors; none where it is not here, and then those of published weights hold."""
    if source is not None:
        try:
            read_config(source)
        except SourceError as error:
            error.key = "source"  # the model of ``directory`` is the one that goes without saying
            raise
        return tensor_names(source)
    if recorded is None or not expanded(recorded).is_dir():
        return frozenset()
    return tensor_names(recorded)


@contextmanager
def _workshop(place: Path) -> Iterator[Path]:
    """A folder inside the directory, so that what is ready can be renamed to its place.

    Raises:
        DirectoryError: nothing can be written there.
    """
    try:
        shop = tempfile.TemporaryDirectory(prefix=".mending-", dir=place)
    except OSError as error:
        raise DirectoryError(
            f"{str(place)!r} cannot be written in ({error.strerror}): an export is mended where it lies. "
            f"Copy it, and mend the copy.",
            key="directory",
        ) from error
    with shop as folder:
        yield Path(folder)


def _write_card(place: Path, shop: Path, recipe: dict[str, object]) -> list[str]:
    """The card and the recipe with what earlier ones did not say; a card that somebody else wrote is left alone."""
    config = read_config(str(place))
    try:
        facts = facts_of(
            recipe,
            selection=_selection(place),
            gates=GATES,
            clients=clients.lines(config),
            pictures=tuple(name for name in (SHAPE_PICTURE, LOSS_PICTURE) if (place / name).is_file()),
        )
        more = {name: recipe[name] for name in ("axes", "expected_units") if name in recipe}
        record, text = recipe_file(facts, **more), model_card(facts)
    except (SourceError, ScoresError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of values of any other kind
        raise SourceError(
            f"{str(place)!r}: its {RECIPE} lacks {error}, or was changed: a card cannot be made from it. "
            f"Restore it, or remove it to mend the rest.",
            key="directory",
        ) from error
    (shop / RECIPE).write_text(record, encoding="utf-8")
    card = place / CARD
    if card.is_file():
        before = card.read_text(encoding="utf-8", errors="replace")
        if _OURS not in before:
            return [RECIPE]
        if (comparison := comparison_in(before)) is not None:
            text = with_comparison(text, comparison)
    (shop / CARD).write_text(text, encoding="utf-8")
    return [RECIPE, CARD]


def _check_gates(file: Path) -> None:
    """Refuse gates that were damaged, before they get the name that other commands read.

    Raises:
        ScoresError: they cannot be read, or were changed.
    """
    try:
        read_scores(str(file))
    except ScoresError as error:
        error.key = "directory"
        raise


def _selection(place: Path) -> Selection | None:
    """How the units were chosen, as the recipe or else the gates beside it say; None where nothing was cut."""
    gates, recipe = gates_in(place), read_recipe(place) or {}
    if not gates.is_file():
        return None
    if recipe.get("selection"):
        return Selection(**recipe["selection"])
    origin = read_scores(str(gates)).origin
    if origin.criterion == LEARNED and recipe.get("step"):
        return Selection(criterion=LEARNED, meaning="")
    return selection_of(origin)


def _check(place: Path, shop: Path, written: list[str], *, vocabulary: int) -> None:
    """See that the model is the same with the new files: a view of the directory with them in their places.

    Raises:
        VerificationError: it is not.
    """
    with tempfile.TemporaryDirectory(prefix="view-", dir=shop) as folder:
        for path in place.iterdir():
            if path.is_file() and path.name not in written and path.name not in _ARTEFACTS:
                same_file(path, Path(folder) / path.name)
        for name in written:
            same_file(shop / name, Path(folder) / name)
        before, after = (read_model(str(where), dtype=torch.float32) for where in (place, folder))
        check_same_model(after, before, vocabulary, what="mended against present model")
