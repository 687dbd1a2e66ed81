"""Which layers the loss misses least: blocks are left out, and the loss of the model without them is measured.

Greedily, one block at a time, as arXiv:2402.09025 (section 3) removes blocks by their perplexity; or in one window of
neighbours that grows to the side where the loss stays lower.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from shear_lit.models.family import Family
from shear_lit.ranking.importance import Importance, Passage, Reduce
from shear_lit.theory.shape import Axis


class LayerLosses:
    """The losses of a model without some of its blocks, over text that is read anew for each."""

    def __init__(
        self, model: nn.Module, family: Family, text: Iterable[Passage], *, reduce: Reduce | None = None
    ) -> None:
        self._model, self._text, self._reduce = model, text, reduce
        self._blocks = cast(nn.ModuleList, model.get_submodule(family.blocks))
        self.layers = family.shape.layers

    @torch.no_grad()
    def without(self, blocks: Sequence[int]) -> float:
        """Mean loss over the passages, in nats per token, without ``blocks``."""
        sums = torch.zeros(2, dtype=torch.float64)
        with self._passed_by(blocks):
            for passage in self._text:
                loss = self._model(**passage.inputs, use_cache=False).loss
                if passage.counts:
                    sums += torch.tensor([float(loss), 1.0], dtype=torch.float64)
        total, count = (sums if self._reduce is None else self._reduce(sums)).tolist()
        return total / max(1.0, count)

    @contextmanager
    def _passed_by(self, blocks: Sequence[int]) -> Iterator[None]:
        """Let these blocks hand on what they are given. Where blocks are sharded, all processes still call them."""
        handles = [self._blocks[block].register_forward_hook(_hand_on) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hand_on(module: nn.Module, inputs: Any, output: Any) -> Any:
    return inputs[0] if isinstance(output, Tensor) else (inputs[0], *output[1:])


def by_greedy_removal(losses: LayerLosses) -> Importance:
    """Layers in the order in which they go, each the one that the loss then misses least.

    Half of them go one by one; the others are in the order of what the last of these steps found.
    """
    gone: list[int] = []
    left = list(range(losses.layers))
    importance = torch.empty(losses.layers)
    while left:
        found = {block: losses.without([*gone, block]) for block in left}
        order = sorted(left, key=lambda block: (found[block], block))
        going = order[:1] if len(gone) < losses.layers // 2 else order
        for block in going:
            importance[block] = float(len(gone))
            gone.append(block)
        left = order[len(going) :]
        left.sort()
    return {Axis.LAYERS: importance}


def by_window_removal(losses: LayerLosses) -> Importance:
    """Layers in the order in which a window of neighbours takes them in, from the one that the loss misses least on.

    Each next one is the neighbour that the loss then misses less.
    """
    layers, without = losses.layers, losses.without
    start = min(range(layers), key=lambda layer: without(range(layer, layer + 1)))
    end, importance = start + 1, torch.zeros(layers)
    for order in range(1, layers):
        below = without(range(start - 1, end)) if start > 0 else float("inf")
        above = without(range(start, end + 1)) if end < layers else float("inf")
        if below <= above:
            start -= 1
            importance[start] = order
        else:
            importance[end] = order
            end += 1
    return {Axis.LAYERS: importance}
