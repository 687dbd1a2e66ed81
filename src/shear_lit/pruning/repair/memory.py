"""What a repair needs in memory, from the shapes of a source and of its cut: known before weights are read."""

import math
from typing import NamedTuple

from transformers import PretrainedConfig

from shear_lit.models.family import Family
from shear_lit.models.generation import GENERATED_LENGTH, TOGETHER
from shear_lit.models.registry import family_of, tensor_sizes
from shear_lit.pruning.repair.head import head_is_tied
from shear_lit.pruning.repair.sublayers import sublayers_of
from shear_lit.theory.shape import ModelShape

INPUTS_KEPT_BYTES = 2e9
"""Inputs of one writer that are kept for the pass after its solution; where they are more, they are computed again."""
_SINGLE, _DOUBLE = 4, 8
_LOGITS = 7
"""Copies of the logits of one step that live at once: the model's, what is drawn by, and those of ``generate``."""


class Memory(NamedTuple):
    """Bytes at the worst moment, for both models, streams and sums; what libraries need themselves is not in it."""

    host: int
    device: int
    """0 where the CPU computes."""


def memory_of_repair(
    config: PretrainedConfig,
    target: ModelShape,
    *,
    tokens: int,
    batch_tokens: int = 2048,
    on_cpu: bool = True,
) -> Memory:
    """What a repair of a cut of ``config`` to ``target`` on ``tokens`` tokens needs."""
    family = family_of(config)
    sizes = tensor_sizes(config)
    small = family.carved_sizes(sizes, target)
    weights = _SINGLE * sum(math.prod(size) for of in (sizes, small) for size in of.values())
    streams = _SINGLE * tokens * (2 * family.shape.hidden + target.hidden)
    attention, feed_forward = sublayers_of(family)
    streams += (
        _SINGLE
        * tokens
        * target.hidden
        * sum(half.post_norm is not None for half in (attention, feed_forward))
    )
    widest = family.widest_writer(target)
    inputs = _SINGLE * tokens * widest
    inputs = inputs if inputs <= INPUTS_KEPT_BYTES else _SINGLE * batch_tokens * widest
    blocks = _SINGLE * sum(
        math.prod(size)
        for of in (sizes, small)
        for name, size in of.items()
        if name.startswith(f"{family.blocks}.0.")
    )
    passing = _SINGLE * batch_tokens * (4 * family.shape.intermediate + 6 * family.shape.hidden)
    in_blocks = max(_readers(family, target), _writers(target.hidden, widest) + (inputs if on_cpu else 0))
    computing = max(in_blocks + passing, _head(family, target, sizes))
    generating = memory_of_generation(family, sizes[f"{family.embedding}.weight"][0])
    if on_cpu:
        return Memory(host=weights + max(streams + computing, generating), device=0)
    source = _SINGLE * sum(math.prod(size) for size in sizes.values())
    return Memory(host=weights + streams + inputs, device=max(blocks + computing, source + generating))


def memory_of_generation(family: Family, vocabulary: int) -> int:
    """Bytes of the text that a source generates, besides the source: keys, values, and logits as one is drawn by."""
    kept = 2 * family.shape.layers * family.shape.kv_heads * family.head_size * GENERATED_LENGTH
    return _SINGLE * TOGETHER * (kept + _LOGITS * vocabulary)


def _readers(family: Family, target: ModelShape) -> int:
    given, wanted = target.hidden + 1, family.shape.hidden + 1
    sums = _of_pair(given, wanted) * (2 if family.parallel else 1)
    rows = max(target.query_heads * family.head_size, target.intermediate)
    # The sums of one reader, and a solution while it is made: of two parts, twice as it is tried.
    return sums + _DOUBLE * (2 * given * rows + 2 * rows * wanted + 3 * given**2 + 4 * given * rows)


def _writers(hidden: int, width: int) -> int:
    return _DOUBLE * (2 * (width**2 + width * hidden) + 3 * width**2 + 4 * width * hidden)


def _head(family: Family, target: ModelShape, sizes: dict[str, tuple[int, ...]]) -> int:
    tied = head_is_tied(family)
    vocabulary = sizes[f"{family.embedding}.weight" if tied else "lm_head.weight"][0]
    entries = vocabulary * (family.shape.hidden + 2 * target.hidden)
    return _of_pair(target.hidden + 1, family.shape.hidden + 1) + _DOUBLE * entries


def _of_pair(given: int, wanted: int) -> int:
    return _DOUBLE * (2 * given**2 + 2 * given * wanted + wanted**2)
