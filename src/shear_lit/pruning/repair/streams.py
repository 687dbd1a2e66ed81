"""Residual streams of a stock model, kept between two blocks: one block at a time lies on the device."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shear_lit.models.family import Family
from shear_lit.ranking.importance import Passage

Stream = Float[Tensor, "_ _ _"]
"""A residual stream: [sequences, tokens, hidden], of the source or of the carved model."""


class _Reached(Exception):
    """A pass has come to where it was to end."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs


class Call(NamedTuple):
    """What a model hands to a block besides the stream: positions, masks."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class BlockByBlock:
    """The blocks of a stock model, each run by itself as the model would run it."""

    def __init__(self, model: nn.Module, family: Family, device: torch.device) -> None:
        self.family, self.device = family, device
        self._blocks = cast(nn.ModuleList, model.get_submodule(family.blocks))
        self._base = model.get_submodule(family.embedding.partition(".")[0])
        self._model = model

    @torch.no_grad()
    def begin(self, passage: Passage) -> tuple[Stream, list[Call]]:
        """The stream before the first block, and what the model hands to each."""
        begun: list[tuple[Tensor, Call]] = []
        for block in self._blocks:
            block.forward = partial(_record, begun)
        try:
            own = {name: part.cpu() for name, part in passage.inputs.items() if name != "labels"}
            self._base(**own, use_cache=False)
        finally:
            for block in self._blocks:
                del block.__dict__["forward"]
        return begun[0][0], [call for _, call in begun]

    @contextmanager
    def on_device(self, index: int) -> Iterator[nn.Module]:
        """A block, on the device within the ``with``; then it goes back."""
        block = self._blocks[index]
        place = next(block.parameters()).device
        block.to(self.device)
        try:
            yield block
        finally:
            block.to(place)

    def module(self, name: str) -> nn.Module:
        """A module of the model by name."""
        return self._model.get_submodule(name)

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter of the model by name."""
        return self._model.get_parameter(name)


@torch.no_grad()
def run(block: nn.Module, stream: Stream, call: Call, device: torch.device) -> Stream:
    """The stream behind a block, on the device."""
    args, kwargs = tree_map(partial(_moved, device=device), (call.args, call.kwargs))
    return cast(Tensor, block(stream.to(device), *args, **kwargs))


@torch.no_grad()
def inputs_within(run_it: Callable[[], Any], module: nn.Module) -> Tensor:
    """What ``module`` is given when ``run_it`` comes to it; the pass ends there."""
    handle = module.register_forward_pre_hook(_stop)
    try:
        run_it()
    except _Reached as reached:
        return reached.inputs
    finally:
        handle.remove()
    raise AssertionError("the pass never came to the module")


@contextmanager
def recorded(
    inputs_of: Iterable[nn.Module], outputs_of: Iterable[nn.Module]
) -> Iterator[dict[nn.Module, Tensor]]:
    """What modules are given, or put out, in the last pass within the ``with``."""
    found: dict[nn.Module, Tensor] = {}
    handles = [module.register_forward_pre_hook(partial(_see_input, found)) for module in inputs_of]
    handles += [module.register_forward_hook(partial(_see_output, found)) for module in outputs_of]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _record(begun: list[tuple[Tensor, Call]], stream: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    begun.append((stream, Call(args, kwargs)))
    return stream


def _stop(_: nn.Module, inputs: Any) -> None:
    raise _Reached(inputs[0])


def _see_input(found: dict[nn.Module, Tensor], module: nn.Module, inputs: Any) -> None:
    found[module] = inputs[0]


def _see_output(found: dict[nn.Module, Tensor], module: nn.Module, inputs: Any, output: Tensor) -> None:
    found[module] = output


def _moved(part: Any, *, device: torch.device) -> Any:
    return part.to(device) if isinstance(part, Tensor) else part
