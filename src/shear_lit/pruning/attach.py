"""Gates on a live Hugging Face model: attached without touching its code or its parameters, detached bit for bit."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from shear_lit.models.family import Family, FamilyError, Norm
from shear_lit.pruning.constraints import GateValues
from shear_lit.pruning.gated import gated_embedding, gated_linear, gated_norm
from shear_lit.pruning.vectors import (
    Source,
    source_before_norm,
    source_of_cut,
    source_of_norm,
    stream_norms,
)


class AttachedGates:
    """The gates of a live model. The values stay in force until others are set.

    They must outlive the forward pass: activation checkpointing runs it again during backward.
    """

    def __init__(self, model: nn.Module, family: Family) -> None:
        self.family = family
        self._gated: list[nn.Module] = []
        self._vectors: dict[Source, list[Any]] = {}
        carriers = _carriers(family)
        gated = {
            name: module for name, module in model.named_modules() if family.pattern(name)[0] in carriers
        }
        _check_complete(gated, family)
        forwards = [(module, self._gated_forward(name, module)) for name, module in gated.items()]
        self.set({})
        for module, forward in forwards:
            module.forward = forward
            self._gated.append(module)

    def set(self, values: GateValues) -> None:
        """Put ``values`` in force for all following passes."""
        self._vectors = {source: source(values, self.family) for source in self._vectors}

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
                return partial(self._norm, module, norm, self._used(source_of_norm(norm)), block or 0)
        if name == self.family.embedding:
            self._used(stream_norms)
            return partial(self._embed, module)
        if not isinstance(module, nn.Linear) or block is None:
            raise FamilyError(
                f"{name} is a {type(module).__name__}: gates can be folded only into the linear layers of a block, "
                f"the embedding and the norms that the {self.family.model_type} table names. Mend the table."
            )
        rows, columns = (self._linear_source(name, dim) for dim in (0, 1))
        return partial(self._linear, module, block, rows, columns)

    def _linear_source(self, name: str, dim: int) -> Source | None:
        """What multiplies a linear layer's rows (0) or columns (1)."""
        for cut in self.family.cuts_of(f"{name}.weight"):
            if cut.dim == dim and cut.carries:
                return self._used(source_of_cut(cut))
        pattern, _ = self.family.pattern(name)
        for norm in self.family.norms:
            if dim == 0 and norm.after == pattern:
                return self._used(source_before_norm(norm))
        return None

    def _used(self, source: Source) -> Source:
        self._vectors.setdefault(source, [])
        return source

    def _linear(
        self, module: nn.Linear, block: int, rows: Source | None, columns: Source | None, x: Tensor
    ) -> Tensor:
        row_gates, column_gates = (source and self._vectors[source][block] for source in (rows, columns))
        if row_gates is None and column_gates is None:
            return type(module).forward(module, x)
        return gated_linear(x, module.weight, module.bias, row_gates, column_gates)

    def _embed(self, module: nn.Module, ids: Tensor) -> Tensor:
        gates = self._vectors[stream_norms][0]
        if gates is None:
            return type(module).forward(module, ids)
        return gated_embedding(module, ids, gates.values)

    def _norm(self, module: nn.Module, norm: Norm, source: Source, block: int, x: Tensor) -> Tensor:
        # With a tied head the shared matrix carries the gate when cut. Here the last norm carries it in
        # both cases: the same product, without a scaled copy of the vocabulary matrix.
        gates = self._vectors[source][block]
        if gates is None:
            return type(module).forward(module, x)
        return gated_norm(module, norm, x, gates)


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
    read_by_norm = {norm.after for norm in family.norms if norm.after is not None}
    return weights | read_by_norm | {norm.module for norm in family.norms} | {family.embedding}


def _check_complete(names: Iterable[str], family: Family) -> None:
    """Raise FamilyError where the table names a module that the model lacks: its gates would do nothing."""
    missing = _carriers(family) - {family.pattern(name)[0] for name in names}
    if missing:
        raise FamilyError(
            f"the {family.model_type} table names {', '.join(sorted(missing))}, which this model does not have: "
            f"gates must reach every module that carries them. Pass the model itself, or mend the table."
        )
