"""``shear-lit mend``: rewrite an export of an earlier version so that all programs read it, and read it right."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shear_lit.commands.mending import Mended


def mend(directory: str, source: str | None = None) -> "Mended":
    """Rewrite what keeps programs from reading an export: its config, names of tensors, gates file and card.

    Weight files whose names are right are left alone. What is new is read back and compared before it takes its place;
    a run that is killed leaves whole files, and mending again finishes.

    Args:
        directory: Directory of an export.
        source: Where the model lies that it was made from, to name tensors as that does; by default where its recipe
            says, if it is still there.
    """
    from shear_lit.commands.mending import mend_export

    return mend_export(directory, source)
