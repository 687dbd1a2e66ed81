"""Low-rank adapters (LoRA, arXiv:2106.09685): small matrices that learn beside weights which stay as they are.

peft attaches them to a live model; ``merged`` adds them to the weights of a model that lies in tensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from shear_lit.mistakes import Mistake
from shear_lit.models.registry import family_of
from shear_lit.ranges import Count, Fraction, PositiveNumber, as_plain_numbers
from shear_lit.theory.noise import mixed

EVERY: Literal["all"] = "all"
"""The word for all linear layers of the blocks."""
_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


class AdapterError(Mistake):
    """Adapters that a run cannot have."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters beside linear layers: W + alpha / rank x B A, where A and B are all that learns."""

    rank: Count = 16
    """Columns of B, and rows of A."""
    alpha: PositiveNumber = 32.0
    """What the adapters' part is multiplied by, times the rank."""
    dropout: Fraction = 0.0
    """Fraction of an adapter's inputs that is 0 in training, other ones in every micro-batch; below 1."""
    targets: Literal["all"] | list[str] = EVERY
    """Linear layers of the blocks that get one, by the last part of their names (q_proj, ...); `all`: every one."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)
        if self.dropout == 1:
            raise AdapterError(
                "1: nothing would be left for adapters to learn from. Use less.", key=f"{KEY}.dropout"
            )
        if self.targets == []:
            raise AdapterError(
                f"[]: no layer would get an adapter, and nothing would learn. Name some, or use {EVERY}.",
                key=f"{KEY}.targets",
            )

    def __str__(self) -> str:
        where = "every linear layer of the blocks" if self.targets == EVERY else ", ".join(self.targets)
        return f"adapters of rank {self.rank} (alpha {self.alpha:g}, dropout {self.dropout:g}) at {where}"

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank

    def to_entry(self) -> dict[str, Any]:
        """It, in plain types."""
        return asdict(self)


KEY = "model.lora"
"""What ``fit`` calls the settings of adapters."""


def check_adapters(lora: Lora, config: PretrainedConfig) -> None:
    """Refuse adapters that cannot be attached to a model of ``config``, before its weights are read.

    Raises:
        AdapterError: peft is not installed, or a target is no linear layer of the blocks.
    """
    known = linear_layers(config)
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in known))
    unknown = [target for target in lora.targets if target not in names] if lora.targets != EVERY else []
    if unknown:
        raise AdapterError(
            f"{lora.targets}: {unknown[0]!r} is no linear layer of the blocks, which are {', '.join(names)}. "
            f"Correct it, or use {EVERY}.",
            key=f"{KEY}.targets",
        )
    if find_spec("peft") is None:
        raise AdapterError(
            f"{lora.rank}: adapters need peft, which is not installed. Type: pip install 'shear-lit[lora]', or leave "
            f"{KEY} out.",
            key=f"{KEY}.rank",
        )


def linear_layers(config: PretrainedConfig) -> tuple[str, ...]:
    """Names of the linear layers of all blocks."""
    family = family_of(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    blocks = model.get_submodule(family.blocks)
    return tuple(
        f"{family.blocks}.{name}" for name, module in blocks.named_modules() if isinstance(module, nn.Linear)
    )


def attach_adapters(model: Any, lora: Lora, *, seed: int) -> None:
    """Put adapters beside layers of ``model``, which stays the same until they learn; nothing else of it learns then.

    The same ``seed`` gives the same ones in every process.
    """
    import peft

    names = [name for name in linear_layers(model.config) if _is_target(name, lora.targets)]
    # Peft declares alpha as a whole number, and takes any.
    sizes: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    settings = peft.LoraConfig(**sizes, target_modules=names, bias="none")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return targets == EVERY or name.rpartition(".")[2] in targets


@contextmanager
def drawn_by(key: tuple[int, int, int], device: torch.device) -> Iterator[None]:
    """Draw what adapters drop within the block as a pure function of ``key``, as gates draw their noise.

    ``key`` is (seed, optimizer step, micro-batch within the global batch).
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(mixed(key))
        yield


def merged(tensors: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The tensors of a model with what its adapters add to them, under the names that it has without any.

    Raises:
        ValueError: an adapter is half there, or has sizes that do not fit its layer.
    """
    found = {name.replace(_BASE, "."): tensor for name, tensor in tensors.items() if not _is_adapter(name)}
    for name in tensors:
        if name.endswith(_UP):
            layer = name.removesuffix(_UP)
            found[f"{layer}.weight"] = _added(tensors, layer, lora)
    return found


def _is_adapter(name: str) -> bool:
    return name.endswith((_DOWN, _UP))


def _added(tensors: Mapping[str, Tensor], layer: str, lora: Lora) -> Tensor:
    weight, down = tensors.get(f"{layer}{_BASE}weight"), tensors.get(f"{layer}{_DOWN}")
    up = tensors[f"{layer}{_UP}"]
    if weight is None or down is None:
        raise ValueError(f"{layer} has an adapter that is half there")
    if up.shape != (weight.shape[0], lora.rank) or down.shape != (lora.rank, weight.shape[1]):
        raise ValueError(f"{layer} has an adapter of another size than rank {lora.rank}")
    return weight + lora.scale * (up @ down)
