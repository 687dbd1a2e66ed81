"""``shear-lit gates``: which units of the source a cut keeps, and how far two cuts agree."""

from typing import TYPE_CHECKING

from shear_lit.commands.failures import UsageError
from shear_lit.models.choices import PresetName
from shear_lit.theory.shape import TargetShape

if TYPE_CHECKING:
    from shear_lit.commands.gate_table import GateTable


def gates(
    directory: str,
    other: str | None = None,
    target: TargetShape | None = None,
    target_preset: PresetName | None = None,
) -> "GateTable":
    """Show which layers and heads a cut keeps, and how many units a second cut of the same source keeps as well.

    Args:
        directory: Directory of an export, or a file of scores or gates, which needs a target.
        other: A second one, to compare with.
        target: Shape at which scores or gates that were not cut yet are looked at.
        target_preset: Name of a published shape, instead.
    """
    if target is not None and target_preset is not None:
        raise UsageError(f"target and target_preset={target_preset} are both given. Keep one.")
    from shear_lit.commands.gate_table import table_of
    from shear_lit.models.targets import PRESETS

    return table_of(directory, other, target if target_preset is None else PRESETS[target_preset])
