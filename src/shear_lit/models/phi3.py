"""The Phi-3 type (arXiv:2404.14219; Phi-3 and Phi-4 mini and medium): fused QKV and fused gate-up projections."""

from collections.abc import Callable

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Cut, Family
from shear_lit.models.rotary import type_and_factors
from shear_lit.models.shape_rules import any_shape, hidden_is_heads_times
from shear_lit.theory.shape import Axis, ModelShape


def phi3(config: PretrainedConfig) -> Family:
    """The table of one Phi-3 model. Longrope's lists of factors must fit hidden / heads; else any shape is taken."""
    return parts.llama_like(
        config,
        norms=parts.PRE_NORMS,
        cuts=(*_attention_cuts(config), *_feed_forward_cuts(config.intermediate_size)),
        check_shape=_shape_rule(config),
        rotary=type_and_factors,
    )


def _shape_rule(config: PretrainedConfig) -> Callable[[ModelShape], None]:
    if config.rope_parameters["rope_type"] != "longrope":
        return any_shape
    return hidden_is_heads_times(
        "phi3",
        parts.head_size_of(config),
        parts.shape_of(config),
        why="with longrope has as many factors as fit hidden / query_heads",
    )


def _attention_cuts(config: PretrainedConfig) -> tuple[Cut, ...]:
    """All queries, then all keys, then all values."""
    fused, size = f"{parts.ATTENTION}.qkv_proj.weight", parts.head_size_of(config)
    queries, groups = size * config.num_attention_heads, size * config.num_key_value_heads
    pieces = ((Axis.QUERY_HEADS, 0), (Axis.KV_HEADS, queries), (Axis.KV_HEADS, queries + groups))
    return (
        *(Cut(tensor=fused, dim=0, axis=axis, entries=size, offset=offset) for axis, offset in pieces),
        parts.hidden(fused, 1),
        Cut(tensor=f"{parts.OUTPUT}.weight", dim=1, axis=Axis.QUERY_HEADS, entries=size, carries=parts.HEADS),
        parts.hidden(f"{parts.OUTPUT}.weight", carries=parts.BLOCK_OUTPUT),
    )


def _feed_forward_cuts(intermediate: int) -> tuple[Cut, ...]:
    """All gates, then all ups."""
    fused = f"{parts.FEED_FORWARD}.gate_up_proj.weight"
    return (
        parts.units(fused),
        parts.units(fused, offset=intermediate),
        parts.hidden(fused, 1),
        parts.units(f"{parts.DOWN}.weight", 1, carries=(Axis.INTERMEDIATE,)),
        parts.hidden(f"{parts.DOWN}.weight", carries=parts.BLOCK_OUTPUT),
    )
