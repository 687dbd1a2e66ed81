"""Pictures of a run as pixels, for loggers that show images: gates, mixture, and the shape that is expected.

A picture is rows of pixels of red, green and blue, whole numbers from 0 to 255.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shear_lit.reporting.run_page.cells import INK, grouped
from shear_lit.theory.shape import Axis, ModelShape

_WIDTH, _HEIGHT, _ROW = 512, 256, 12
_GONE = (211, 219, 230)
_COLOURS = (
    (27, 95, 180),
    (180, 69, 11),
    (29, 122, 70),
    (138, 62, 168),
    (168, 135, 26),
    (14, 127, 140),
    (176, 42, 91),
)


def gates_picture(axis: Axis, chances: Tensor) -> Tensor:
    """Keep probabilities of one axis: a row for each block; hidden sorted, as its channels have no neighbours."""
    if axis is Axis.HIDDEN:
        rows = grouped(chances.sort(descending=True).values[None])
    else:
        rows = grouped(chances[:, None] if axis is Axis.LAYERS else chances.flatten(1))
    ink = 255 - torch.tensor(INK, dtype=torch.float64)
    pixels = 255 - rows.double().clamp(0, 1)[..., None] * ink
    tall = _HEIGHT if axis is Axis.HIDDEN else _ROW
    return (
        pixels.round().byte().repeat_interleave(tall, 0).repeat_interleave(max(1, _WIDTH // rows.shape[1]), 1)
    )


def mixture_picture(changes: Sequence[tuple[int, Mapping[str, float]]], last_step: int) -> Tensor:
    """The shares of the domains from each step on, one above the other, up to ``last_step``; the first is lowest."""
    picture = torch.full((_HEIGHT, _WIDTH, 3), 255, dtype=torch.uint8)
    starts = [round(step / max(1, last_step) * _WIDTH) for step, _ in changes]
    for start, end, (_, shares) in zip(starts, [*starts[1:], _WIDTH], changes, strict=True):
        top = 0.0
        for number, share in enumerate(shares.values()):
            low, top = top, top + share
            rows = slice(_HEIGHT - round(top * _HEIGHT), _HEIGHT - round(low * _HEIGHT))
            picture[rows, start : max(end, start + 1)] = _pixel(_COLOURS[number % len(_COLOURS)])
    return picture


def shape_picture(source: ModelShape, chances: Mapping[Axis, Tensor]) -> Tensor:
    """A bar for the heads and one for the feed-forward units of each block: blue is what is expected to stay."""
    picture = torch.full((source.layers * _ROW, _WIDTH, 3), 255, dtype=torch.uint8)
    stays = chances.get(Axis.LAYERS, torch.ones(source.layers))
    heads = torch.ones(source.layers)
    for axis in (Axis.KV_HEADS, Axis.QUERY_HEADS):
        if axis in chances:
            heads = heads * chances[axis].flatten(1).mean(1)
    units = chances[Axis.INTERMEDIATE].mean(1) if Axis.INTERMEDIATE in chances else torch.ones(source.layers)
    third = _WIDTH * 3 // 10
    for left, right, share in ((0, third, heads), (third + _ROW, _WIDTH, units)):
        for block, part in enumerate((share * stays).clamp(0, 1).tolist()):
            rows = slice(block * _ROW, (block + 1) * _ROW - 1)
            picture[rows, left:right] = _pixel(_GONE)
            picture[rows, left : left + round(part * (right - left))] = _pixel(INK)
    return picture


def _pixel(colour: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)
