"""The importance of a model's units, each axis by its own criterion: what ``rank`` writes, and where gates start."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from shear_lit.models.family import Family
from shear_lit.models.huggingface import run_blocks_again
from shear_lit.ranking.activations import (
    by_activations,
    by_block_influence,
    by_depth,
    by_peak_to_peak,
    watch_activations,
)
from shear_lit.ranking.gradients import SetGates, by_mean_gradients, by_squared_gradients, gate_gradients
from shear_lit.ranking.importance import Importance, Passage, Reduce, Sums
from shear_lit.ranking.layer_losses import LayerLosses, by_greedy_removal, by_window_removal
from shear_lit.ranking.magnitude import weight_magnitude, weight_ranges
from shear_lit.ranking.reconstruction import by_reconstruction
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis

_OF_ACTIVATIONS: dict[str, Callable[[Mapping[str, Tensor]], Importance]] = {
    "activation": by_activations,
    "block_influence": by_block_influence,
    "depth": by_depth,
}
_OF_GRADIENTS = {"fisher": by_squared_gradients, "taylor": by_mean_gradients}
_OF_LAYER_LOSSES = {"loss": by_greedy_removal, "loss_window": by_window_removal}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found."""

    importance: Importance
    """By axis."""
    halves: tuple[Importance, Importance]
    """The same by either half of the text alone, for those axes whose criterion is a sum over text."""


def measure(
    model: nn.Module,
    family: Family,
    text: Iterable[Passage],
    criteria: Mapping[Axis, str],
    *,
    set_gates: SetGates,
    device: torch.device,
    reduce: Reduce | None = None,
    seed: int = 17,
) -> Measured:
    """Order the units of the axes of ``criteria``. The text is read once for each kind of criterion, or more often.

    ``set_gates`` puts gates in force in ``model``. ``reduce``: sums over processes, each of which has a part of the
    text and sees as many passages as the others. The gradients that are left in the weights are the caller's to clear.
    """
    gathering = _Gathering(criteria, reduce)
    ways = dict(_OF_ACTIVATIONS)
    if gathering.axes_of({"peak_to_peak"}):
        ways["peak_to_peak"] = partial(by_peak_to_peak, weight_ranges(model.named_parameters(), family))
    if gathering.axes_of(ways):
        gathering.take(ways, watch_activations(model, family, text))
    if axes := gathering.axes_of(_OF_GRADIENTS):
        with _block_by_block(model, family):
            sums = gate_gradients(model, set_gates, text, source=family.shape, axes=axes, device=device)
        gathering.take(_OF_GRADIENTS, sums)
    for name, found in _OF_LAYER_LOSSES.items():
        if gathering.axes_of({name}):
            gathering.put(found(LayerLosses(model, family, text, reduce=reduce)))
    if axes := gathering.axes_of({"reconstruction"}):
        gathering.put(by_reconstruction(model, family, text, axes, reduce=reduce))
    if axes := gathering.axes_of({"weight"}):
        found_weights = weight_magnitude(model.named_parameters(), family)
        gathering.put({axis: found_weights[axis] for axis in axes})
    if axes := gathering.axes_of({"random"}):
        gathering.put(keyed_uniform(family.shape, axes, key=(seed, 0, 0)))
    return gathering.measured()


def passes_over_text(criteria: Mapping[Axis, str]) -> int | None:
    """How often ``measure`` reads the text; None where a criterion reads it for every layer, or for every sub-layer."""
    named = set(criteria.values())
    if named & {*_OF_LAYER_LOSSES, "reconstruction"}:
        return None
    return bool(named & {*_OF_ACTIVATIONS, "peak_to_peak"}) + bool(named & set(_OF_GRADIENTS))


class _Gathering:
    """Importance by axis, from one source after the other."""

    def __init__(self, criteria: Mapping[Axis, str], reduce: Reduce | None) -> None:
        self._criteria, self._reduce = criteria, reduce
        self._found: tuple[Importance, Importance, Importance] = ({}, {}, {})

    def axes_of(self, names: Container[str]) -> tuple[Axis, ...]:
        """The axes that are ordered by one of these criteria."""
        return tuple(axis for axis in Axis if self._criteria.get(axis, "") in names)

    def take(self, ways: Mapping[str, Any], sums: Sums) -> None:
        """Read importance off sums, by those of ``ways`` that are asked for."""
        if self._reduce is not None:
            sums.reduce(self._reduce)
        for found, part in zip(self._found, sums.each(), strict=True):
            for name, way in ways.items():
                if axes := self.axes_of({name}):
                    values = way(part)
                    found.update({axis: values[axis] for axis in axes})

    def put(self, importance: Importance) -> None:
        """Take importance that is no sum over text."""
        self._found[0].update(importance)

    def measured(self) -> Measured:
        whole, *halves = ({axis: found[axis] for axis in Axis if axis in found} for found in self._found)
        return Measured(importance=whole, halves=cast(tuple[Importance, Importance], tuple(halves)))


@contextmanager
def _block_by_block(model: nn.Module, family: Family) -> Iterator[None]:
    """Run each block's forward again during backward: a passage's activations never lie in memory together.

    It changes no number. Blocks heed it in training alone; their parts stay as they are, without dropout.
    """
    blocks = list(cast(nn.ModuleList, model.get_submodule(family.blocks)))
    before = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    modes = [block.training for block in blocks]
    if not before:
        run_blocks_again(model)
    for block in blocks:
        block.training = True
    try:
        yield
    finally:
        if not before:
            run_blocks_again(model, on=False)
        for block, mode in zip(blocks, modes, strict=True):
            block.training = mode
