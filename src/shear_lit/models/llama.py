"""The LLaMA type (Llama 1 to 3.x, TinyLlama, SmolLM2, ...): GQA or MHA, tied or untied head, explicit head size."""

from typing import Any

from transformers import PretrainedConfig

from shear_lit.models.family import Cut, Family, Norm
from shear_lit.theory.shape import Axis, ModelShape, ShapeError

_BLOCK = "model.layers.*"
_ATTENTION = f"{_BLOCK}.self_attn"
_FEED_FORWARD = f"{_BLOCK}.mlp"
_BLOCK_OUTPUT = (Axis.HIDDEN, Axis.LAYERS)
_HEADS = (Axis.KV_HEADS, Axis.QUERY_HEADS)


def llama(config: PretrainedConfig) -> Family:
    """The table of one LLaMA model."""
    shape = ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        intermediate=config.intermediate_size,
    )
    return Family(
        model_type="llama",
        shape=shape,
        head_size=config.head_dim,
        blocks="model.layers",
        embedding="model.embed_tokens",
        norms=tuple(
            Norm(module=module, epsilon="variance_epsilon")
            for module in (f"{_BLOCK}.input_layernorm", f"{_BLOCK}.post_attention_layernorm", "model.norm")
        ),
        cuts=(*_stream_cuts(config), *_attention_cuts(config), *_feed_forward_cuts(config)),
        check_shape=_check_shape,
        resized=_resized(config.head_dim),
    )


def _hidden(tensor: str, dim: int = 0, *, carries: tuple[Axis, ...] = ()) -> Cut:
    return Cut(tensor=tensor, dim=dim, axis=Axis.HIDDEN, carries=carries)


def _stream_cuts(config: PretrainedConfig) -> tuple[Cut, ...]:
    """The residual stream outside the blocks. A tied head is the embedding, which carries the gate for both."""
    embedding = _hidden("model.embed_tokens.weight", 1, carries=(Axis.HIDDEN,))
    if config.tie_word_embeddings:
        return embedding, _hidden("model.norm.weight")
    return embedding, _hidden("model.norm.weight", carries=(Axis.HIDDEN,)), _hidden("lm_head.weight", 1)


def _attention_cuts(config: PretrainedConfig) -> tuple[Cut, ...]:
    def heads(
        projection: str, axis: Axis, dim: int = 0, carries: tuple[Axis, ...] = (), of: str = "weight"
    ) -> Cut:
        tensor = f"{_ATTENTION}.{projection}.{of}"
        return Cut(tensor=tensor, dim=dim, axis=axis, entries=config.head_dim, carries=carries)

    readers = (("q_proj", Axis.QUERY_HEADS), ("k_proj", Axis.KV_HEADS), ("v_proj", Axis.KV_HEADS))
    weights = (
        _hidden(f"{_BLOCK}.input_layernorm.weight", carries=(Axis.HIDDEN,)),
        *(heads(name, axis) for name, axis in readers),
        *(_hidden(f"{_ATTENTION}.{name}.weight", 1) for name, _ in readers),
        # The heads' gates go here and not into V, which the query heads of a group share.
        heads("o_proj", Axis.QUERY_HEADS, 1, carries=_HEADS),
        _hidden(f"{_ATTENTION}.o_proj.weight", carries=_BLOCK_OUTPUT),
    )
    if not config.attention_bias:
        return weights
    return (
        *weights,
        *(heads(name, axis, of="bias") for name, axis in readers),
        _hidden(f"{_ATTENTION}.o_proj.bias", carries=_BLOCK_OUTPUT),
    )


def _feed_forward_cuts(config: PretrainedConfig) -> tuple[Cut, ...]:
    def units(projection: str, dim: int = 0, carries: tuple[Axis, ...] = (), of: str = "weight") -> Cut:
        tensor = f"{_FEED_FORWARD}.{projection}.{of}"
        return Cut(tensor=tensor, dim=dim, axis=Axis.INTERMEDIATE, carries=carries)

    weights = (
        _hidden(f"{_BLOCK}.post_attention_layernorm.weight", carries=(Axis.HIDDEN,)),
        units("gate_proj"),
        _hidden(f"{_FEED_FORWARD}.gate_proj.weight", 1),
        units("up_proj"),
        _hidden(f"{_FEED_FORWARD}.up_proj.weight", 1),
        units("down_proj", 1, carries=(Axis.INTERMEDIATE,)),
        _hidden(f"{_FEED_FORWARD}.down_proj.weight", carries=_BLOCK_OUTPUT),
    )
    if not config.mlp_bias:
        return weights
    return (
        *weights,
        units("gate_proj", of="bias"),
        units("up_proj", of="bias"),
        _hidden(f"{_FEED_FORWARD}.down_proj.bias", carries=_BLOCK_OUTPUT),
    )


def _check_shape(shape: ModelShape) -> None:
    if shape.hidden % shape.query_heads:
        below = shape.hidden - shape.hidden % shape.query_heads
        raise ShapeError(
            f"target.hidden={shape.hidden} with query_heads={shape.query_heads}: the stock llama config takes "
            f"only a hidden size that is a multiple of the attention heads, even with an explicit head size. "
            f"Use hidden={below} or {below + shape.query_heads}."
        )


def _resized(head_size: int) -> Any:
    def resized(shape: ModelShape) -> dict[str, Any]:
        return {
            "num_hidden_layers": shape.layers,
            "hidden_size": shape.hidden,
            "num_attention_heads": shape.query_heads,
            "num_key_value_heads": shape.kv_heads,
            "intermediate_size": shape.intermediate,
            "head_dim": head_size,
        }

    return resized
