"""What orders the units of each axis: the criteria by name, what they mean, and those that are taken by default."""

from collections.abc import Mapping

from shear_lit.mistakes import Mistake
from shear_lit.models.choices import AxisName, Criterion
from shear_lit.theory.shape import Axis

_WIDTHS = (Axis.HIDDEN, Axis.KV_HEADS, Axis.QUERY_HEADS, Axis.INTERMEDIATE)
_ALL = (Axis.LAYERS, *_WIDTHS)

ORDERS: dict[str, tuple[Axis, ...]] = {
    "fisher": _ALL,
    "taylor": _ALL,
    "weight": _ALL,
    "random": _ALL,
    "activation": _WIDTHS,
    "block_influence": (Axis.LAYERS,),
    "depth": (Axis.LAYERS,),
    "loss": (Axis.LAYERS,),
    "loss_window": (Axis.LAYERS,),
    "peak_to_peak": (Axis.INTERMEDIATE,),
    "reconstruction": (Axis.KV_HEADS, Axis.QUERY_HEADS, Axis.INTERMEDIATE),
}
"""The axes whose units each criterion can order."""
MEANINGS = {
    "fisher": "mean squared gradients of gates",
    "taylor": "the size of the mean gradients of gates",
    "weight": "the sizes of weights",
    "random": "lot",
    "activation": "the sizes of activations, and for layers what they change (block influence)",
    "block_influence": "what each layer changes (block influence)",
    "depth": "what contiguous layers change (block influence)",
    "loss": "the loss without each layer, one after the other",
    "loss_window": "the loss without contiguous layers",
    "peak_to_peak": "the range of a unit's weights times the size of its activation",
    "reconstruction": "the error that is left when the other units take over",
}
"""What they mean, in words."""
WITHOUT_TEXT = ("weight", "random")
"""Those that look at no text."""
DEFAULT: dict[Axis, str] = {
    Axis.LAYERS: "block_influence",
    Axis.HIDDEN: "activation",
    Axis.KV_HEADS: "activation",
    Axis.QUERY_HEADS: "activation",
    Axis.INTERMEDIATE: "peak_to_peak",
}
"""What orders the units of an axis where nothing is said (benchmarks/results/repair_cpu2_2026-11.md)."""

Criteria = Criterion | Mapping[AxisName, Criterion]
"""One criterion for every axis that it can order, or a mapping from axes to theirs; the others keep the default's."""


class CriterionError(Mistake):
    """A criterion that cannot order the units of an axis."""


def criteria_by_axis(said: Criteria, *, key: str = "criterion") -> dict[Axis, str]:
    """The criterion of each axis.

    Raises:
        CriterionError: one is named for an axis whose units it cannot order, or an axis is none.
    """
    if isinstance(said, str):
        if said == "default":
            return dict(DEFAULT)
        found: dict[Axis, str] = dict.fromkeys(ORDERS[said], said)
        if said == "activation":
            found = {Axis.LAYERS: "block_influence", **found}
        return found
    chosen = dict(DEFAULT)
    for name, criterion in said.items():
        if name not in tuple(Axis):
            raise CriterionError(
                f"{name!r} is no axis. Use {', '.join(axis.value for axis in Axis)}.", key=key
            )
        axis = Axis(name)
        if criterion == "default":
            continue
        if axis not in ORDERS[criterion]:
            fit = ", ".join(known for known, axes in ORDERS.items() if axis in axes)
            raise CriterionError(
                f"{criterion} cannot order the units of {name}. Use one of {fit}.", key=f"{key}.{name}"
            )
        chosen[axis] = criterion
    return chosen


def named(criteria: Mapping[Axis, str], said: Criteria) -> str:
    """One name for the criteria of a file: the word that the user said, or each axis with its own."""
    if isinstance(said, str) and said != "default":
        return said
    return ", ".join(f"{axis.value}={criteria[axis]}" for axis in Axis if axis in criteria)


def meaning(name: str) -> str:
    """What the criteria of a file mean, in words; ``name`` itself where it is of another version."""
    if name in MEANINGS:
        return MEANINGS[name]
    parts = [part.partition("=") for part in name.split(", ")]
    if not all(sign and criterion in MEANINGS for _, sign, criterion in parts):
        return name
    of: dict[str, list[str]] = {}
    for axis, _, criterion in parts:
        of.setdefault(MEANINGS[criterion], []).append(axis.replace("_", " "))
    return "; ".join(f"{' and '.join(axes)} by {words}" for words, axes in of.items())
