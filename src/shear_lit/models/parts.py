"""The parts that the tables of LLaMA-like families share, named as transformers names them; a family picks and adds.

Heads' gates are folded into the output projection and not into V, which the query heads of a group share.
"""

from collections.abc import Callable, Iterable
from typing import Any

from transformers import PretrainedConfig

from shear_lit.models.family import Cut, Family, Norm
from shear_lit.models.shape_rules import any_shape
from shear_lit.theory.shape import Axis, ModelShape

EMBEDDING, LAST_NORM, HEAD = "model.embed_tokens", "model.norm", "lm_head"
BLOCKS = "model.layers"
BLOCK = f"{BLOCKS}.*"
ATTENTION, FEED_FORWARD = f"{BLOCK}.self_attn", f"{BLOCK}.mlp"
OUTPUT, DOWN = f"{ATTENTION}.o_proj", f"{FEED_FORWARD}.down_proj"
"""The two layers of a block that write to the residual stream."""

BLOCK_OUTPUT = (Axis.HIDDEN, Axis.LAYERS)
"""The gates of what a block adds to the residual stream."""
HEADS = (Axis.KV_HEADS, Axis.QUERY_HEADS)
"""The gates of what a query head adds."""

PRE_NORMS = (
    Norm(module=f"{BLOCK}.input_layernorm"),
    Norm(module=f"{BLOCK}.post_attention_layernorm"),
    Norm(module=LAST_NORM),
)
"""The norms of a model that normalises what its blocks read."""


def llama_like(
    config: PretrainedConfig,
    *,
    norms: tuple[Norm, ...],
    cuts: tuple[Cut, ...],
    check_shape: Callable[[ModelShape], None] = any_shape,
    embedding_scale: Callable[[int], float] | None = None,
    **entries: Any,
) -> Family:
    """A family whose modules have LLaMA's names; ``cuts``: those of its attention and feed-forward layers.

    Any shape is taken by default.
    """
    head_size, tied = head_size_of(config), config.tie_word_embeddings
    scaled = embedding_scale is not None
    return Family(
        model_type=config.model_type,
        shape=shape_of(config),
        head_size=head_size,
        blocks=BLOCKS,
        embedding=EMBEDDING,
        norms=norms,
        cuts=(
            *stream_cuts(tied=tied, scaled=scaled),
            *norm_cuts(norms, head_size, tied=tied, scaled=scaled),
            *cuts,
        ),
        check_shape=check_shape,
        embedding_scale=embedding_scale,
        resized=lambda shape: resized(shape, head_size),
        **entries,
    )


def shape_of(config: PretrainedConfig) -> ModelShape:
    """The sizes that a config states."""
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        intermediate=config.intermediate_size,
    )


def head_size_of(config: PretrainedConfig) -> int:
    """The size of a head, which not every config class has an entry for."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def resized(shape: ModelShape, head_size: int) -> dict[str, Any]:
    """The config entries of another shape, with the head size explicit: by default it would follow the others."""
    return {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "head_dim": head_size,
    }


def hidden(tensor: str, dim: int = 0, *, carries: tuple[Axis, ...] = (), compensates: int = 0) -> Cut:
    """A dimension along which the entries of the residual stream lie."""
    return Cut(tensor=tensor, dim=dim, axis=Axis.HIDDEN, carries=carries, compensates=compensates)


def stream_cuts(*, tied: bool, scaled: bool = False, embedding: str = EMBEDDING) -> tuple[Cut, ...]:
    """Embedding and head. A tied head is the embedding, which carries the gate for both.

    ``scaled``: the model multiplies the embedding by a constant that depends on the hidden size.
    """
    start = hidden(f"{embedding}.weight", 1, carries=(Axis.HIDDEN,), compensates=int(scaled))
    return (start,) if tied else (start, hidden(f"{HEAD}.weight", 1))


def norm_cuts(
    norms: Iterable[Norm],
    head_size: int,
    *,
    tied: bool,
    scaled: bool = False,
    parameters: tuple[str, ...] = ("weight",),
) -> tuple[Cut, ...]:
    """The parameters of norms, which carry the gates of what they let through.

    A tied head brings what its matrix carries for the embedding's sake: before it, the last norm carries no gate, and
    takes back what the matrix was multiplied by for the embedding's constant.
    """
    return tuple(
        Cut(
            tensor=f"{norm.module}.{parameter}",
            dim=0,
            axis=norm.over,
            entries=1 if norm.over is Axis.HIDDEN else head_size,
            carries=_norm_carries(norm, tied=tied),
            compensates=-1 if scaled and tied and _is_last(norm) else 0,
        )
        for norm in norms
        for parameter in parameters
    )


def _norm_carries(norm: Norm, *, tied: bool) -> tuple[Axis, ...]:
    if norm.over is not Axis.HIDDEN:
        return ()
    if norm.after is not None:
        return BLOCK_OUTPUT
    return () if tied and _is_last(norm) else (Axis.HIDDEN,)


def _is_last(norm: Norm) -> bool:
    return "*" not in norm.module


def attention_cuts(
    head_size: int,
    *,
    biased: tuple[str, ...] = (),
    writes: tuple[Axis, ...] = BLOCK_OUTPUT,
) -> tuple[Cut, ...]:
    """Separate projections; those named in ``biased`` have a bias. ``writes``: the gates that the output carries."""

    def heads(tensor: str, axis: Axis, dim: int = 0, *, carries: tuple[Axis, ...] = ()) -> Cut:
        return Cut(tensor=f"{ATTENTION}.{tensor}", dim=dim, axis=axis, entries=head_size, carries=carries)

    readers = (("q_proj", Axis.QUERY_HEADS), ("k_proj", Axis.KV_HEADS), ("v_proj", Axis.KV_HEADS))
    return (
        *(heads(f"{name}.weight", axis) for name, axis in readers),
        *(hidden(f"{ATTENTION}.{name}.weight", 1) for name, _ in readers),
        *(heads(f"{name}.bias", axis) for name, axis in readers if name in biased),
        heads("o_proj.weight", Axis.QUERY_HEADS, 1, carries=HEADS),
        hidden(f"{OUTPUT}.weight", carries=writes),
        *((hidden(f"{OUTPUT}.bias", carries=writes),) if "o_proj" in biased else ()),
    )


ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The projections of attention."""


def feed_forward_cuts(*, biased: bool = False, writes: tuple[Axis, ...] = BLOCK_OUTPUT) -> tuple[Cut, ...]:
    """A gated feed-forward layer of three projections. ``writes``: the gates that its output carries."""
    readers = ("gate_proj", "up_proj")
    parameters = ("weight", "bias") if biased else ("weight",)
    return (
        *(units(f"{FEED_FORWARD}.{name}.{parameter}") for name in readers for parameter in parameters),
        *(hidden(f"{FEED_FORWARD}.{name}.weight", 1) for name in readers),
        units(f"{DOWN}.weight", 1, carries=(Axis.INTERMEDIATE,)),
        *(hidden(f"{DOWN}.{parameter}", carries=writes) for parameter in parameters),
    )


def units(tensor: str, dim: int = 0, *, offset: int = 0, carries: tuple[Axis, ...] = ()) -> Cut:
    """A dimension, or a piece of it, along which feed-forward units lie."""
    return Cut(tensor=tensor, dim=dim, axis=Axis.INTERMEDIATE, offset=offset, carries=carries)
