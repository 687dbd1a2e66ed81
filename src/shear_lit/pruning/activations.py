"""How much each unit matters by what flows through it: one forward pass over text, no gradients.

Feed-forward units and heads by the size of what they hand to their output projection, hidden units by the size of what
the norms over the stream put out (arXiv:2407.14679, section 2.2), layers by how far they turn the stream
(block influence, arXiv:2403.03853, section 3.2), or in contiguous windows (arXiv:2403.17887, section 3.2).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from shear_lit.models.family import Family
from shear_lit.pruning.importance import Importance
from shear_lit.theory.shape import Axis


class ActivationSums:
    """What the hooks add up while text flows through a model."""

    def __init__(self, family: Family) -> None:
        self.family = family
        shape = family.shape
        self._units = {axis: torch.zeros(shape.gate_shape(axis), dtype=torch.float64) for axis in Axis}
        self._stream: list[Tensor | None] = [None] * (shape.layers + 1)
        self._turned = torch.zeros(shape.layers + 1, shape.layers + 1, dtype=torch.float64)
        self._influence = torch.zeros(shape.layers, dtype=torch.float64)
        self._batches = 0
        self.counted: Bool[Tensor, "sequences tokens"] | None = None
        """Which tokens of the batch that is under way count; none: all."""

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch every pass through ``model`` within the block."""
        handles = [*self._hooks(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def importance(self) -> Importance:
        """Importance by axis; that of a KV head is the sum over its query heads."""
        found = {axis: total.float() for axis, total in self._units.items()}
        found[Axis.LAYERS] = self._influence.float()
        found[Axis.KV_HEADS] = found[Axis.QUERY_HEADS].sum(-1)
        return found

    def depth_importance(self) -> Importance:
        """Layers in the order of windows that grow from the least influential one, contiguous at every length."""
        return {Axis.LAYERS: nested_windows(self._turned / max(1, self._batches))}

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
            before = inputs[0].detach()
            after = (output if isinstance(output, Tensor) else output[0]).detach()
            similarity = functional.cosine_similarity(before.float(), after.float(), dim=-1)
            self._influence[index] += float(self._mean(1 - similarity))
            self._stream[index], self._stream[index + 1] = self._last(before), self._last(after)
            if index == self.family.shape.layers - 1:
                self._finish()

        return hook

    def _norm_hook(self) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._units[Axis.HIDDEN] += self._mean(output.detach().double().abs()).cpu()

        return hook

    def _output_hook(self, axis: Axis, block: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            entries = self._mean(inputs[0].detach().double().square()).cpu()
            rows = self._units[axis][block]
            # The entries of one unit (a head's) lie side by side.
            rows += entries.view(*rows.shape, -1).sum(-1).sqrt()

        return hook

    def _mean(self, values: Float[Tensor, "sequences tokens ..."]) -> Float[Tensor, "..."]:
        """The mean over those tokens that count."""
        return values.mean((0, 1)) if self.counted is None else values[self.counted].mean(0)

    def _last(self, stream: Float[Tensor, "sequences tokens hidden"]) -> Float[Tensor, "counted hidden"]:
        """The stream at the last token that counts of each sequence that has one."""
        if self.counted is None:
            return stream[:, -1].float()
        place = torch.arange(stream.shape[1], device=stream.device)
        last = torch.where(self.counted, place, -1).amax(1)
        rows = (last >= 0).nonzero().flatten()
        return stream[rows, last[rows]].float()

    def _finish(self) -> None:
        """Count how far the last tokens' streams are turned between any two depths, in parts of half a turn."""
        stream = functional.normalize(torch.stack([cast(Tensor, part) for part in self._stream]), dim=-1)
        cosines = torch.einsum("aih,bih->abi", stream, stream).clamp(-1, 1)
        self._turned += (torch.arccos(cosines) / torch.pi).mean(-1).double().cpu()
        self._batches += 1


def nested_windows(distance: Float[Tensor, "depths depths"]) -> Float[Tensor, "layers"]:
    """Importance of layers of which any number of the least important are neighbours.

    ``distance[a, b]`` says how far layers a to b - 1 turn the stream. The first window is the layer that turns it
    least; each next one adds the neighbour with which the window turns it least.
    """
    layers = distance.shape[0] - 1
    start = int(distance.diagonal(1).argmin())
    end, importance = start + 1, torch.empty(layers)
    importance[start] = 0.0
    for order in range(1, layers):
        below = float(distance[start - 1, end]) if start > 0 else float("inf")
        above = float(distance[start, end + 1]) if end < layers else float("inf")
        if below <= above:
            start -= 1
            importance[start] = order
        else:
            importance[end] = order
            end += 1
    return importance


@torch.no_grad()
def watch_activations(
    model: nn.Module, family: Family, batches: Iterable[Mapping[str, Tensor]]
) -> ActivationSums:
    """Run batches of inputs through ``model``, without gates, and add up what flows; labels are not looked at.

    Where a batch has a ``loss_mask``, only the tokens count of which it is true: others are padding, or not learned.
    """
    sums = ActivationSums(family)
    with sums.watching(model):
        for inputs in batches:
            sums.counted = inputs.get("loss_mask")
            own = {name: part for name, part in inputs.items() if name not in ("labels", "loss_mask")}
            model(**own, use_cache=False)
    return sums
