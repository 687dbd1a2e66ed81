"""A comparison in the model cards of what was compared."""

import logging
from collections.abc import Sequence
from pathlib import Path

from shear_lit.commands.failures import UsageError
from shear_lit.disk.names import expanded, is_elsewhere
from shear_lit.disk.reading import read_small
from shear_lit.disk.writing import write_file
from shear_lit.evaluation.comparison import Comparison
from shear_lit.reporting.card_comparison import with_comparison
from shear_lit.reporting.model_card import CARD
from shear_lit.reporting.recipe import RECIPE

_log = logging.getLogger(__name__)


def cards_in(places: Sequence[str]) -> tuple[Path, ...]:
    """The cards of those models that `export` wrote.

    Raises:
        UsageError: there are none.
    """
    folders = [expanded(place) for place in places]
    found = tuple(
        folder / CARD
        for folder in folders
        if (folder / RECIPE).is_file()
        and (folder / CARD).is_file()
        and not is_elsewhere(folder / CARD, folder)
    )
    if not found:
        raise UsageError(
            "cards=true has no effect: none of the models was written by `shear-lit export`, and cards of others are "
            "left alone. Remove it."
        )
    return found


def put_into_cards(comparison: Comparison, cards: Sequence[Path]) -> None:
    """Put a comparison into cards, in the place of the one that they have; the rest of them stays as it is."""
    sections = "\n\n".join(table.in_markdown(3) for table in comparison.tables())
    for card in cards:
        write_file(card, with_comparison(read_small(card).decode("utf-8"), sections))
        _log.info("the comparison stands in %s", card)
