"""The page of a repair: what became of every weight."""

from collections.abc import Sequence

from shear_lit.reporting.model_facts import RepairFacts

REPAIR_PAGE = "repair.md"
"""Its name beside a repaired model, and in a run that repaired the cut that it started from."""


def repair_page(found: Sequence[tuple[str, float, float, float, bool]], facts: RepairFacts) -> str:
    """The page, in Markdown; ``found`` are ``pruning.repair.Refitted``."""
    rows = [
        f"| {tensor} | {before:.4f} | {after:.4f} | {f'{share:g}' if refitted else 'stays as it was'} |"
        for tensor, share, before, after, refitted in found
    ]
    return "\n".join(
        [
            "# Repair",
            "",
            f"{facts} Every fifth sequence was held out: a weight was refitted where that brought it closer to the "
            f"source there. The numbers are what is left of the wanted output on text held out: the mean over its "
            f"entries of the fraction of each one's squares.",
            "",
            "| weight | before | after | held back by |",
            "|---|---:|---:|---:|",
            *rows,
            "",
        ]
    )
