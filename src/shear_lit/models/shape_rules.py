"""Which shapes a stock config class takes, where it does not take all; with the nearest ones that it takes."""

from collections.abc import Callable

from shear_lit.theory.shape import ModelShape, ShapeError


def any_shape(shape: ModelShape) -> None:
    """The rule of classes that take every hidden size with an explicit head size."""


def hidden_multiple_of_heads(
    model_type: str, source: ModelShape, *, otherwise: str = ""
) -> Callable[[ModelShape], None]:
    """The rule of classes that split the hidden size over the heads, although the head size is explicit.

    ``otherwise`` is what a user may do instead of taking one of the nearest sizes.
    """

    def check(shape: ModelShape) -> None:
        heads = shape.query_heads
        if shape.hidden % heads:
            below = shape.hidden - shape.hidden % heads
            nearest = [str(size) for size in (below, below + heads) if 0 < size <= source.hidden]
            repair = f"hidden={' or '.join(nearest)}" if nearest else "fewer query heads"
            raise ShapeError(
                f"{shape.hidden} with query_heads={heads}: the stock {model_type} config takes only a "
                f"hidden size that is a multiple of the attention heads, even with an explicit head size. "
                f"Use {repair}{otherwise}.",
                key="target.hidden",
            )

    return check


def hidden_is_heads_times(
    model_type: str, head_size: int, source: ModelShape, *, why: str
) -> Callable[[ModelShape], None]:
    """The rule of models in which the heads together are as wide as the residual stream."""

    def check(shape: ModelShape) -> None:
        if shape.hidden == shape.query_heads * head_size:
            return
        few = shape.hidden // head_size
        groups = shape.queries_per_group
        counts = {shape.query_heads, few - few % groups, few - few % groups + groups}
        nearest = [
            f"hidden={heads * head_size} with query_heads={heads}"
            for heads in sorted(counts)
            if 0 < heads <= source.query_heads and heads * head_size <= source.hidden
        ]
        raise ShapeError(
            f"{shape.hidden} with query_heads={shape.query_heads}: {model_type} {why}, so that hidden "
            f"must be query_heads x {head_size} (the head size, which never changes). Use {' or '.join(nearest)}.",
            key="target.hidden",
        )

    return check
