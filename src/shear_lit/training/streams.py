"""Matching the residual stream behind each block to the teacher's, through the units of it that a cut has kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shear_lit.disk.names import expanded
from shear_lit.pruning.artefact import gates_in, read_kept
from shear_lit.ranking.scores import read_scores
from shear_lit.theory.losses import IGNORED
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.theory.streams import stream_distance
from shear_lit.training.errors import RunError

KEY = "model.distillation.layers_weight"


class Counterparts(NamedTuple):
    """What of the teacher each part of a model was."""

    layers: Tensor
    """The teacher's block of each block, Int64[layers]."""
    hidden: Tensor
    """The teacher's channel of each channel of the stream, Int64[hidden]."""


def counterparts(
    source: str, shape: ModelShape, *, fingerprint: str, teacher_fingerprint: str
) -> Counterparts:
    """What of the teacher each part of ``source`` was: all of the same model, or what an export says that it has kept.

    Raises:
        RunError: it is not known, or ``source`` was cut from another model.
    """
    if fingerprint == teacher_fingerprint:
        return Counterparts(torch.arange(shape.layers), torch.arange(shape.hidden))
    file = gates_in(expanded(source))
    kept = read_kept(str(file)) if file.is_file() else None
    if kept is None or kept.shape != shape:
        raise RunError(
            f"it is not known which units of the teacher {source} has kept: its directory has no {file.name} of its "
            "cut. Start from what `shear-lit export` wrote, or use 0.",
            key=KEY,
        )
    cut_from = read_scores(str(file)).origin
    if cut_from.source_fingerprint != teacher_fingerprint:
        raise RunError(
            f"{source} was cut from {cut_from.source} ({cut_from.source_fingerprint[:12]}), and the teacher is another "
            f"model ({teacher_fingerprint[:12]}): their streams have nothing in common. Use "
            "model.distillation.teacher=source, or 0.",
            key=KEY,
        )
    return Counterparts(kept.layers, kept.hidden)


class StreamMatching:
    """The blocks of a model and those of its teacher, whose streams are compared."""

    def __init__(self, blocks: nn.ModuleList, theirs: nn.ModuleList, units: Counterparts) -> None:
        self._blocks = list(blocks)
        self._theirs = [theirs[layer] for layer in units.layers.tolist()]
        self._channels = units.hidden

    @contextmanager
    def watched(self, gates: Mapping[Axis, Tensor]) -> Iterator[Callable[[Tensor], Tensor]]:
        """The distance of the streams of the last pass of each model within the ``with``, by the targets.

        It is the mean over blocks, summed over the rows whose target counts. Blocks and channels count as much as their
        ``gates`` say, through which no gradient flows: otherwise units would be closed because they differ.
        """
        ours: dict[int, Tensor] = {}
        theirs: dict[int, Tensor] = {}
        hooks = [
            block.register_forward_hook(partial(_keep, kept, index, self._chosen if kept is theirs else None))
            for kept, blocks in ((ours, self._blocks), (theirs, self._theirs))
            for index, block in enumerate(blocks)
        ]
        channels = gates[Axis.HIDDEN].detach() if Axis.HIDDEN in gates else None

        def distance(targets: Tensor) -> Tensor:
            counted = targets != IGNORED
            apart = torch.stack(
                [
                    torch.where(counted, stream_distance(ours[index], theirs[index], channels), 0.0).sum()
                    for index in range(len(self._blocks))
                ]
            )
            if Axis.LAYERS not in gates:
                return apart.mean()
            layers = gates[Axis.LAYERS].detach()
            # With few layers, a draw may close all of them.
            return (apart * layers).sum() / layers.sum().clamp(min=torch.finfo(layers.dtype).eps)

        try:
            yield distance
        finally:
            for hook in hooks:
                hook.remove()

    def _chosen(self, stream: Tensor) -> Tensor:
        self._channels = self._channels.to(stream.device)
        return stream if len(self._channels) == stream.shape[-1] else stream[..., self._channels]


def _keep(
    kept: dict[int, Tensor],
    index: int,
    chosen: Callable[[Tensor], Tensor] | None,
    module: nn.Module,
    inputs: Any,
    stream: Tensor,
) -> None:
    kept[index] = stream if chosen is None else chosen(stream)
