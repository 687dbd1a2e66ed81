"""How much each unit matters by what flows through it: one forward pass over text, no gradients.

Feed-forward units and heads by the size of what they hand to their output projection, hidden units by the size of what
the norms over the stream put out (arXiv:2407.14679, section 2.2), layers by how far they turn the stream
(block influence, arXiv:2403.03853, section 3.2), or in contiguous windows (arXiv:2403.17887, section 3.2).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from shear_lit.models.family import Family
from shear_lit.ranking.importance import Importance, Passage, Sums
from shear_lit.theory.shape import Axis

_TURNED, _INFLUENCE, _COUNT = "turned", "influence", "count"
_WIDTHS = (Axis.HIDDEN, Axis.QUERY_HEADS, Axis.INTERMEDIATE)
TURNED_AT = 128
"""Tokens of a passage at which streams of all depths are compared: at the last alone, as in arXiv:2403.17887, the
windows change with every sample of text."""
_LEAST_TURN = 1e-12
"""In parts of half a turn: windows that do not turn the stream at all are alike."""


class ActivationSums:
    """What hooks add up while passages flow through a model."""

    def __init__(self, family: Family) -> None:
        self.family, shape = family, family.shape
        depths = shape.layers + 1
        self.sums = Sums(
            {axis.value: shape.gate_shape(axis) for axis in _WIDTHS}
            | {_TURNED: (depths, depths), _INFLUENCE: (shape.layers,), _COUNT: ()}
        )
        self._stream: list[Tensor | None] = [None] * depths
        self._passage = Passage({}, 0)

    def begin(self, passage: Passage) -> None:
        """Let the next pass be that of ``passage``."""
        self._passage = passage
        self.sums.begin(passage)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch every pass through ``model`` within the block."""
        handles = [*self._hooks(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, model: nn.Module) -> Iterator[Any]:
        blocks = cast(nn.ModuleList, model.get_submodule(self.family.blocks))
        for index, block in enumerate(blocks):
            yield block.register_forward_hook(self._block_hook(index))
        # Norms over heads are none over the stream.
        over_stream = (n for n in self.family.norms if n.over is Axis.HIDDEN)
        norms = {norm.module for norm in over_stream}
        outputs = {
            cut.tensor.removesuffix(".weight"): cut.axis
            for cut in self.family.cuts
            if cut.dim == 1 and cut.axis in (Axis.INTERMEDIATE, Axis.QUERY_HEADS) and cut.carries
        }
        for name, module in model.named_modules():
            pattern, index_of = self.family.pattern(name)
            if pattern in norms:
                yield module.register_forward_hook(self._norm_hook())
            elif pattern in outputs and index_of is not None:
                yield module.register_forward_pre_hook(self._output_hook(outputs[pattern], index_of))

    def _block_hook(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not self._passage.counts:
                return
            before = inputs[0].detach()
            after = (output if isinstance(output, Tensor) else output[0]).detach()
            similarity = functional.cosine_similarity(before.float(), after.float(), dim=-1)
            self.sums.add(_INFLUENCE, self._mean(1 - similarity), at=index)
            self._stream[index], self._stream[index + 1] = self._some(before), self._some(after)
            if index == self.family.shape.layers - 1:
                self._finish()

        return hook

    def _norm_hook(self) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._passage.counts:
                self.sums.add(Axis.HIDDEN.value, self._mean(output.detach().float().abs()))

        return hook

    def _output_hook(self, axis: Axis, block: int) -> Callable[..., None]:
        rows = self.family.shape.gate_shape(axis)[1:]

        def hook(module: nn.Module, inputs: Any) -> None:
            if self._passage.counts:
                squares = self._mean(inputs[0].detach().float().square())
                # The entries of one unit (a head's) lie side by side.
                self.sums.add(axis.value, squares.view(*rows, -1).sum(-1), at=block)

        return hook

    def _mean(self, values: Float[Tensor, "1 tokens ..."]) -> Float[Tensor, "..."]:
        """The mean over those tokens that count."""
        counted = self._passage.counted
        return values[0].mean(0) if counted is None else values[counted].mean(0)

    def _some(self, stream: Float[Tensor, "1 tokens hidden"]) -> Float[Tensor, "some hidden"]:
        """The stream at tokens that count: all of them, or as many as may be, evenly spread."""
        counted = self._passage.counted
        rows = stream[0] if counted is None else stream[counted]
        if len(rows) > TURNED_AT:
            rows = rows[torch.linspace(0, len(rows) - 1, TURNED_AT, device=rows.device).round().long()]
        return rows.float()

    def _finish(self) -> None:
        """Count how far the stream is turned between any two depths, in parts of half a turn."""
        stream = functional.normalize(torch.stack([cast(Tensor, part) for part in self._stream]), dim=-1)
        alike = torch.einsum("ath,bth->abt", stream, stream).clamp(-1, 1)
        self.sums.add(_TURNED, torch.arccos(alike).mean(-1) / torch.pi)
        self.sums.add(_COUNT, torch.ones(()))


def by_activations(sums: Mapping[str, Tensor]) -> Importance:
    """Widths by the sizes of activations; that of a KV head is the sum over its query heads.

    The size of a feed-forward unit or a head is the root of its mean square over all passages: one that is large in few
    of them has to stay, and would have less of a mean of its sizes in each.
    """
    found = {axis: _mean(sums, axis.value) for axis in _WIDTHS}
    found = {axis: (v if axis is Axis.HIDDEN else v.sqrt()).float() for axis, v in found.items()}
    return {**found, Axis.KV_HEADS: found[Axis.QUERY_HEADS].sum(-1)}


def by_peak_to_peak(ranges: Float[Tensor, "layers intermediate"], sums: Mapping[str, Tensor]) -> Importance:
    """Feed-forward units by the range of their weights times the size of their activations."""
    return {Axis.INTERMEDIATE: (ranges * _mean(sums, Axis.INTERMEDIATE.value).sqrt()).float()}


def by_block_influence(sums: Mapping[str, Tensor]) -> Importance:
    """Layers by how far they turn the stream, each by itself."""
    return {Axis.LAYERS: _mean(sums, _INFLUENCE).float()}


def by_depth(sums: Mapping[str, Tensor]) -> Importance:
    """Layers in the order of windows that turn the stream little, contiguous at every length."""
    return {Axis.LAYERS: nested_windows(_mean(sums, _TURNED))}


def _mean(sums: Mapping[str, Tensor], name: str) -> Tensor:
    return sums[name] / sums[_COUNT].clamp(min=1)


def nested_windows(distance: Float[Tensor, "depths depths"]) -> Float[Tensor, "layers"]:
    """Importance of layers of which any number of the least important are neighbours.

    ``distance[a, b]`` says how far layers a to b - 1 turn the stream. Each window lies in the next longer one. Of all
    such rows of windows, one of each length, this is that whose windows turn the stream least in sum, each in parts of
    what the best window of its length does: to grow one from the least layer can lead away from all longer ones.
    """
    layers = distance.shape[0] - 1
    # Of the best row up to the window of so many layers that begins with each layer.
    sums = [torch.zeros(layers + 1)]
    for length in range(1, layers + 1):
        turned = distance.diagonal(length)
        turned = turned / turned.min().clamp(min=_LEAST_TURN)
        sums.append(turned + torch.minimum(sums[-1][:-1], sums[-1][1:]))
    importance, first = torch.zeros(layers), 0
    for length in range(layers - 1, 0, -1):
        keeps_first = bool(sums[length][first] <= sums[length][first + 1])
        importance[first + length if keeps_first else first] = length
        first += not keeps_first
    return importance


@torch.no_grad()
def watch_activations(model: nn.Module, family: Family, text: Iterable[Passage]) -> Sums:
    """Run passages through ``model``, without gates, and add up what flows; labels are not looked at."""
    watched = ActivationSums(family)
    with watched.watching(model):
        for passage in text:
            watched.begin(passage)
            own = {name: part for name, part in passage.inputs.items() if name != "labels"}
            # Nobody asks for logits: those of one token are computed.
            model(**own, use_cache=False, logits_to_keep=1)
    return watched.sums
