"""Numbers by lot that are a pure function of a key: the gates' noise, and orders that mean nothing."""

import torch
from torch import Tensor

from shear_lit.theory.shape import Axis, ModelShape

_SMALLEST = 1e-6


def keyed_uniform(
    source: ModelShape, axes: tuple[Axis, ...], *, key: tuple[int, int, int]
) -> dict[Axis, Tensor]:
    """Noise for one draw of the gates, in (0, 1), on the CPU; a pure function of ``key``.

    ``key`` is (seed, optimizer step, micro-batch within the global batch): the same noise meets the same
    micro-batch however the batch is spread over ranks and accumulation, and after any resume.
    """
    generator = torch.Generator().manual_seed(mixed(key))
    return {
        axis: torch.empty(source.gate_shape(axis)).uniform_(_SMALLEST, 1 - _SMALLEST, generator=generator)
        for axis in axes
    }


def no_noise(source: ModelShape, axes: tuple[Axis, ...]) -> dict[Axis, Tensor]:
    """The numbers of ``keyed_uniform`` at which a gate is what its log alpha says: the middle of all draws."""
    return {axis: torch.full(source.gate_shape(axis), 0.5) for axis in axes}


def mixed(key: tuple[int, ...]) -> int:
    """One 64-bit number for a key, by the finaliser of splitmix64 after each part."""
    mask = (1 << 64) - 1
    state = 0
    for part in key:
        state = (state + part + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state
