"""The two halves of a block, by the family's table: what reads the residual stream, and what writes to it."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from shear_lit.models.family import Family
from shear_lit.pruning.carve import KeptUnits, kept_entries
from shear_lit.ranking.reconstruction import writers_of
from shear_lit.theory.shape import Axis


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """Attention or the feed-forward layer; names are those of modules within the block."""

    readers: tuple[str, ...]
    """The linear layers that read the stream, behind ``norm`` where there is one."""
    norm: str | None
    """The norm over the stream before them."""
    writer: str
    """The linear layer that closes it."""
    post_norm: str | None
    """The norm over what the writer puts out, before it is added to the stream."""

    @property
    def module(self) -> str:
        """The module that holds it."""
        return self.writer.rpartition(".")[0]


def sublayers_of(family: Family) -> tuple[Sublayer, Sublayer]:
    """Attention and the feed-forward layer of every block."""
    prefix, writers = f"{family.blocks}.*.", writers_of(family)
    norms = [norm.module for norm in family.norms if norm.over is Axis.HIDDEN and norm.after is None]
    before: list[str | None] = [name.removeprefix(prefix) for name in norms if name.startswith(prefix)]
    after = {norm.after: norm.module.removeprefix(prefix) for norm in family.norms if norm.after is not None}
    units = ((Axis.QUERY_HEADS, Axis.KV_HEADS), (Axis.INTERMEDIATE,))
    attention, feed_forward = (
        Sublayer(
            readers=tuple(_readers(family, axes)),
            norm=norm,
            writer=writers[axes[0]].removeprefix(prefix),
            post_norm=after.get(writers[axes[0]]),
        )
        for axes, norm in zip(units, before or (None, None), strict=True)
    )
    return attention, feed_forward


def _readers(family: Family, axes: tuple[Axis, ...]) -> Iterator[str]:
    """The linear layers of a block whose columns are the stream and whose rows are units of ``axes``, each once."""
    prefix, rows = (
        f"{family.blocks}.*.",
        {cut.tensor for cut in family.cuts if cut.dim == 0 and cut.axis in axes},
    )
    for cut in family.cuts:
        if cut.axis is Axis.HIDDEN and cut.dim == 1 and cut.tensor in rows and cut.tensor.startswith(prefix):
            yield cut.tensor.removeprefix(prefix).removesuffix(".weight")


def kept_rows(family: Family, kept: KeptUnits, reader: str, block: int) -> Int[Tensor, "rows"]:
    """The rows of a reader of a block of the source that the cut keeps, in their order."""
    return kept_entries(family, kept, f"{family.blocks}.{block}.{reader}.weight", dim=0)
