"""A model family as a table: which dimension of which tensor shrinks along which axis, and which gates it carries.

Attaching gates, cutting and counting parameters are all derived from this one table, so they cannot disagree.
``docs/adding_a_family.md`` walks through a real one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from shear_lit.mistakes import Mistake
from shear_lit.models.rotary import RotaryForm, one_base
from shear_lit.theory.shape import Axis, ModelShape, shrinking_axes


class FamilyError(Mistake):
    """A model that no family table describes, or that its table does not cover."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One tensor dimension, or one piece of a fused one, that shrinks when units of an axis go."""

    tensor: str
    """Name in the state dict; ``*`` stands for the block index."""
    dim: int
    """The dimension that shrinks."""
    axis: Axis
    """The axis whose units lie along it."""
    entries: int = 1
    """Consecutive entries per unit: 1 for channels, the head size for heads."""
    offset: int = 0
    """Where the units begin along the dimension: the pieces of a fused tensor follow one another."""
    carries: tuple[Axis, ...] = ()
    """Axes whose gate values are folded into the tensor along this dimension when it is cut."""
    compensates: int = 0
    """The power of (the source's embedding scale / the carved model's) that the tensor takes when it is cut."""


class NormKind(Enum):
    """How a normalisation computes."""

    RMS = "weight times x over its root mean square"
    ONE_PLUS_RMS = "(1 + weight) times x over its root mean square"
    LAYER = "weight times (x minus its mean) over its deviation, plus bias"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A normalisation over units that can be removed: it must see only those that are kept."""

    module: str
    """Name of the module; ``*`` stands for the block index."""
    epsilon: str = "variance_epsilon"
    """Attribute that holds the constant added to the mean square."""
    kind: NormKind = NormKind.RMS
    """How it computes."""
    over: Axis = Axis.HIDDEN
    """The axis whose units it normalises over."""
    after: str | None = None
    """The linear layer whose output it normalises; None: the residual stream, where lost units are 0 already."""


@dataclass(frozen=True, kw_only=True)
class Period:
    """How the kinds of a family's blocks alternate, for programs that know the period and do not read the list."""

    listed: str
    """Config entry that lists the kind of every block."""
    kind: object
    """The kind of the last block of every period."""
    blocks: int
    """Blocks of one period."""
    stated: str | None = None
    """Config entry that may state the number of them, where the config class once had one."""

    def kept_by(self, kinds: Sequence[object]) -> bool:
        """Whether ``kinds``, one per block, alternate with this period."""
        return all((kind == self.kind) == self.is_last(block) for block, kind in enumerate(kinds))

    def is_last(self, block: int) -> bool:
        """Whether a block that knows its index alone takes itself for the last of a period."""
        return (block + 1) % self.blocks == 0


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one Hugging Face model type is, for one config (its switches, such as a tied head, are resolved)."""

    model_type: str
    """``model_type`` of the Hugging Face config."""
    shape: ModelShape
    """The sizes of the model."""
    head_size: int
    """Entries of one head; pruning never changes it."""
    blocks: str
    """Name of the list of blocks."""
    embedding: str
    """Name of the embedding module, whose output starts the residual stream."""
    norms: tuple[Norm, ...]
    """Every normalisation over units that can be removed."""
    cuts: tuple[Cut, ...]
    """Every prunable tensor dimension: all dimensions but the vocabulary and those of ``untouched`` tensors."""
    check_shape: Callable[[ModelShape], None]
    """Raises ShapeError for a shape that the stock config class refuses."""
    resized: Callable[[ModelShape], dict[str, Any]]
    """The config entries that give the model another shape."""
    untouched: tuple[str, ...] = ()
    """Tensors that no axis cuts, such as a norm within each head."""
    parallel: bool = False
    """Whether attention and the feed-forward layer of a block read the same stream."""
    embedding_scale: Callable[[int], float] | None = None
    """The constant that the model multiplies the embedding by, where it depends on the hidden size."""
    per_layer: tuple[str, ...] = ()
    """Config entries that list something per block; they follow the blocks that are kept."""
    layer_counts: tuple[str, ...] = ()
    """Config entries that count blocks from the first; they become the number of those that are kept."""
    period: Period | None = None
    """How kinds of blocks alternate, where programs take that for granted."""
    rotary: RotaryForm = one_base
    """How configs stated the rotary constants before transformers 5."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors in files, where they are others than in the live model; published weights have these."""

    def pattern(self, tensor: str) -> tuple[str, int | None]:
        """``tensor`` with its block index replaced by ``*``, and that index (None outside the blocks)."""
        prefix = f"{self.blocks}."
        if not tensor.startswith(prefix):
            return tensor, None
        index, _, rest = tensor.removeprefix(prefix).partition(".")
        return f"{prefix}*.{rest}", int(index)

    def stored_name(self, tensor: str, stored: Collection[str] = ()) -> str:
        """What ``tensor`` is called in files; ``stored`` are the names in those of its source, where they are known.

        Some files leave out the prefix of the model without its head, as that model by itself is saved.
        """
        name, prefix = self.stored_names.get(tensor, tensor), f"{self.embedding.partition('.')[0]}."
        # The source has more blocks, and its first is as good as any.
        of_source = self.pattern(name)[0].replace("*", "0", 1)
        missing = of_source not in stored and of_source.removeprefix(prefix) in stored
        return name.removeprefix(prefix) if missing else name

    def cuts_of(self, tensor: str) -> tuple[Cut, ...]:
        """The cuts of one tensor of the state dict, the pieces of each dimension in their order."""
        pattern, _ = self.pattern(tensor)
        found = (cut for cut in self.cuts if cut.tensor == pattern)
        return tuple(sorted(found, key=lambda cut: (cut.dim, cut.offset)))

    def norm_of(self, tensor: str) -> Norm | None:
        """The norm that a tensor of the state dict is the weight or the bias of."""
        pattern, _ = self.pattern(tensor)
        return next((norm for norm in self.norms if norm.module == pattern.rpartition(".")[0]), None)

    def check_target(self, target: ModelShape) -> None:
        """Raise ShapeError unless ``target`` can be cut from this model and reloaded by its stock class."""
        shrinking_axes(self.shape, target)  # raises where an axis would grow
        self.check_shape(target)

    def widest_writer(self, shape: ModelShape) -> int:
        """Columns of the widest writer of a block of ``shape``; those of parallel halves count as one."""
        heads = shape.query_heads * self.head_size
        return heads + shape.intermediate if self.parallel else max(heads, shape.intermediate)

    def carved_sizes(
        self, sizes: Mapping[str, tuple[int, ...]], target: ModelShape
    ) -> dict[str, tuple[int, ...]]:
        """The size of every tensor after the cut to ``target``, by its name in the smaller model."""
        carved = {}
        for tensor, size in sizes.items():
            _, block = self.pattern(tensor)
            if block is None or block < target.layers:
                carved[tensor] = self._carved_size(tensor, size, target)
        return carved

    def _carved_size(self, tensor: str, size: tuple[int, ...], target: ModelShape) -> tuple[int, ...]:
        shrunk = list(size)
        for cut in self.cuts_of(tensor):
            shrunk[cut.dim] -= (
                units_along(self.shape, cut.axis) - units_along(target, cut.axis)
            ) * cut.entries
        return tuple(shrunk)


def units_along(shape: ModelShape, axis: Axis) -> int:
    """Units of ``axis`` along a tensor dimension: all query heads of a block lie along one, not only a group's."""
    return shape.query_heads if axis is Axis.QUERY_HEADS else shape.units(axis)
