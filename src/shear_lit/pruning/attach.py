"""Gates on a live Hugging Face model: attached without touching its code or its parameters, detached bit for bit."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shear_lit.models.family import Cut, Family, FamilyError
from shear_lit.pruning.gated import StreamGates, gated_embedding, gated_linear, gated_norm, stream_gates
from shear_lit.pruning.gates import GateValues
from shear_lit.theory.shape import Axis, ModelShape


class AttachedGates:
    """The gates of a live model. The values stay in force until others are set.

    They must outlive the forward pass: activation checkpointing runs it again during backward.
    """

    def __init__(self, model: nn.Module, family: Family) -> None:
        self.family = family
        self._gated: list[nn.Module] = []
        self._stream: StreamGates | None = None
        self._block_outputs: list[Tensor | None] = [None] * family.shape.layers
        self._heads: list[Tensor | None] = [None] * family.shape.layers
        self._intermediate: list[Tensor | None] = [None] * family.shape.layers
        carriers = _carriers(family)
        gated = {
            name: module for name, module in model.named_modules() if family.pattern(name)[0] in carriers
        }
        _check_complete(gated, family)
        forwards = [(module, self._gated_forward(name, module)) for name, module in gated.items()]
        for module, forward in forwards:
            module.forward = forward
            self._gated.append(module)

    def set(self, values: GateValues) -> None:
        """Put ``values`` in force for all following passes."""
        shape = self.family.shape
        hidden = values.get(Axis.HIDDEN)
        self._stream = None if hidden is None else stream_gates(hidden)
        self._block_outputs = _rows(_block_outputs(values, shape), shape.layers)
        self._heads = _rows(_head_columns(values, self.family), shape.layers)
        self._intermediate = _rows(values.get(Axis.INTERMEDIATE), shape.layers)

    def detach(self) -> None:
        """Leave the model as it was before attaching."""
        for module in self._gated:
            del module.__dict__["forward"]
        self._gated.clear()

    def _gated_forward(self, name: str, module: nn.Module) -> Callable[..., Tensor]:
        """The forward of one module under gates."""
        pattern, block = self.family.pattern(name)
        if "forward" in module.__dict__:
            raise FamilyError(
                f"{name} has a forward of its own, so gates cannot take its place: they attach once, to stock "
                f"modules. Detach the gates or remove the hooks that the model has."
            )
        for norm in self.family.norms:
            if norm.module == pattern:
                return partial(self._norm, module, norm.epsilon)
        if name == self.family.embedding:
            return partial(self._embed, module)
        if not isinstance(module, nn.Linear) or block is None:
            raise FamilyError(
                f"{name} is a {type(module).__name__}: gates can be folded only into the linear layers of a block, "
                f"the embedding and the norms that the {self.family.model_type} table names. Mend the table."
            )
        carriers = [cut for cut in self.family.cuts if cut.tensor == f"{pattern}.weight" and cut.carries]
        return partial(self._linear, module, block, {cut.dim: self._source_of(cut) for cut in carriers})

    def _source_of(self, cut: Cut) -> str:
        """Which list of vectors holds, per block, the gates that ``cut`` carries."""
        lists = {
            (Axis.HIDDEN, Axis.LAYERS): "_block_outputs",
            (Axis.KV_HEADS, Axis.QUERY_HEADS): "_heads",
            (Axis.INTERMEDIATE,): "_intermediate",
        }
        return lists[cut.carries]

    def _linear(self, module: nn.Linear, block: int, sources: dict[int, str], x: Tensor) -> Tensor:
        rows, columns = (getattr(self, sources[dim])[block] if dim in sources else None for dim in (0, 1))
        if rows is None and columns is None:
            return type(module).forward(module, x)
        return gated_linear(x, module.weight, module.bias, rows, columns)

    def _embed(self, module: nn.Module, ids: Tensor) -> Tensor:
        if self._stream is None:
            return type(module).forward(module, ids)
        return gated_embedding(module, ids, self._stream)

    def _norm(self, module: nn.Module, epsilon: str, stream: Tensor) -> Tensor:
        # With a tied head the shared matrix carries the gate when cut. Here the last norm carries it in
        # both cases: the same product, without a scaled copy of the vocabulary matrix.
        if self._stream is None:
            return type(module).forward(module, stream)
        return gated_norm(module, epsilon, stream, self._stream)


def attach(model: nn.Module, family: Family) -> AttachedGates:
    """Attach gates to ``model``, all open until ``AttachedGates.set``."""
    return AttachedGates(model, family)


def _carriers(family: Family) -> set[str]:
    """The modules that compute otherwise under gates; ``*`` stands for the block index."""
    weights = {
        cut.tensor.removesuffix(".weight")
        for cut in family.cuts
        if cut.carries and cut.tensor.endswith(".weight")
    }
    return weights | {norm.module for norm in family.norms} | {family.embedding}


def _check_complete(names: Iterable[str], family: Family) -> None:
    """Raise FamilyError where the table names a module that the model lacks: its gates would do nothing."""
    missing = _carriers(family) - {family.pattern(name)[0] for name in names}
    if missing:
        raise FamilyError(
            f"the {family.model_type} table names {', '.join(sorted(missing))}, which this model does not have: "
            f"gates must reach every module that carries them. Pass the model itself, or mend the table."
        )


def _rows(values: Tensor | None, layers: int) -> list[Tensor | None]:
    return [None] * layers if values is None else list(values.unbind(0))


def _block_outputs(values: GateValues, shape: ModelShape) -> Float[Tensor, "layers hidden"] | None:
    """What multiplies the rows of every writer of a block."""
    hidden, blocks = values.get(Axis.HIDDEN), values.get(Axis.LAYERS)
    if blocks is None:
        return None if hidden is None else hidden.expand(shape.layers, -1)
    per_block = blocks[:, None].expand(-1, shape.hidden)
    return per_block if hidden is None else per_block * hidden


def _head_columns(values: GateValues, family: Family) -> Float[Tensor, "layers head_entries"] | None:
    """What multiplies the columns of every output projection: one value per entry of every query head."""
    groups, heads = values.get(Axis.KV_HEADS), values.get(Axis.QUERY_HEADS)
    if groups is None and heads is None:
        return None
    shape = family.shape
    per_head = torch.ones((), device=next(iter(values.values())).device)
    if groups is not None:
        per_head = per_head * groups[:, :, None]
    if heads is not None:
        per_head = per_head * heads
    per_head = per_head.expand(shape.layers, shape.kv_heads, shape.queries_per_group)
    return per_head.flatten(1).repeat_interleave(family.head_size, dim=1)
