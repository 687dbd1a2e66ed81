"""The GPT-NeoX type (arXiv:2204.06745; Pythia): layer norms with bias, fused QKV, heads as wide as the stream."""

from typing import Any

from transformers import PretrainedConfig

from shear_lit.models import parts
from shear_lit.models.family import Cut, Family, Norm, NormKind
from shear_lit.models.rotary import base_and_fraction
from shear_lit.models.shape_rules import hidden_is_heads_times
from shear_lit.theory.shape import Axis, ModelShape

_BLOCKS = "gpt_neox.layers"
_BLOCK = f"{_BLOCKS}.*"
_NORMS = tuple(
    Norm(module=module, epsilon="eps", kind=NormKind.LAYER)
    for module in (
        f"{_BLOCK}.input_layernorm",
        f"{_BLOCK}.post_attention_layernorm",
        "gpt_neox.final_layer_norm",
    )
)


def gpt_neox(config: PretrainedConfig) -> Family:
    """The table of one GPT-NeoX model, whether its residual branches are parallel or in sequence.

    Its config has no head size, and an extra entry for one would change the rotary embedding without a word.
    """
    head_size = config.hidden_size // config.num_attention_heads
    shape = ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query_heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
    )
    norms = parts.norm_cuts(_NORMS, head_size, tied=config.tie_word_embeddings, parameters=("weight", "bias"))
    return Family(
        model_type="gpt_neox",
        shape=shape,
        head_size=head_size,
        blocks=_BLOCKS,
        embedding="gpt_neox.embed_in",
        norms=_NORMS,
        cuts=(
            *parts.stream_cuts(tied=config.tie_word_embeddings, embedding="gpt_neox.embed_in"),
            *norms,
            *_attention_cuts(head_size, biased=config.attention_bias),
            *_feed_forward_cuts(),
        ),
        check_shape=hidden_is_heads_times(
            "gpt_neox", head_size, shape, why="has heads that are together as wide as the residual stream"
        ),
        resized=_resized,
        parallel=config.use_parallel_residual,
        rotary=base_and_fraction,
        stored_names={"lm_head.weight": "embed_out.weight"},
    )


def _attention_cuts(head_size: int, *, biased: bool) -> tuple[Cut, ...]:
    """Query, key and value of one head follow one another: three times the head size is one unit."""
    reader, writer = f"{_BLOCK}.attention.query_key_value", f"{_BLOCK}.attention.dense"
    heads = Cut(
        tensor=f"{writer}.weight", dim=1, axis=Axis.QUERY_HEADS, entries=head_size, carries=parts.HEADS
    )
    parameters = ("weight", "bias") if biased else ("weight",)
    return (
        *(
            Cut(tensor=f"{reader}.{parameter}", dim=0, axis=Axis.KV_HEADS, entries=3 * head_size)
            for parameter in parameters
        ),
        parts.hidden(f"{reader}.weight", 1),
        heads,
        *(parts.hidden(f"{writer}.{parameter}", carries=parts.BLOCK_OUTPUT) for parameter in parameters),
    )


def _feed_forward_cuts() -> tuple[Cut, ...]:
    reader, writer = f"{_BLOCK}.mlp.dense_h_to_4h", f"{_BLOCK}.mlp.dense_4h_to_h"
    return (
        parts.units(f"{reader}.weight"),
        parts.units(f"{reader}.bias"),
        parts.hidden(f"{reader}.weight", 1),
        parts.units(f"{writer}.weight", 1, carries=(Axis.INTERMEDIATE,)),
        parts.hidden(f"{writer}.weight", carries=parts.BLOCK_OUTPUT),
        parts.hidden(f"{writer}.bias", carries=parts.BLOCK_OUTPUT),
    )


def _resized(shape: ModelShape) -> dict[str, Any]:
    return {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.query_heads,
        "intermediate_size": shape.intermediate,
    }
