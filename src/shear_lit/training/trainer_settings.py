"""What may be said to Lightning's Trainer: checked by its keys before anything is built."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from shear_lit.training.errors import RunError
from shear_lit.training.strategies import REFUSED_STRATEGIES, StrategyError


class _Rule(NamedTuple):
    """A value that a key may not have."""

    wrong: Callable[[Any], bool]
    why: str
    """What follows the key and the value: the rule and the repair."""


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


_LENGTH = (
    "would cut the run elsewhere: its order, its validations and its length follow from trainer.max_steps and "
    "data.mixture.update_every_steps. Leave it out and set those"
)
_BATCH = (
    "has no effect here: it follows from data.global_batch, data.micro_batch and data.mixture.update_every_steps. "
    "Remove it and set those"
)
_RULES: dict[str, _Rule] = {
    "num_nodes": _Rule(lambda nodes: nodes < 1, "is no number of machines. Use 1 or more"),
    "max_steps": _Rule(lambda steps: steps < 1, "would train nothing. Use 1 or more"),
    "gradient_clip_val": _Rule(
        lambda norm: norm is not None and (_is_no_number(norm) or norm < 0),
        "is no norm of a gradient. Use 1.0 as the paper does, or null for none",
    ),
    "log_every_n_steps": _Rule(lambda steps: steps < 1, "is no number of steps. Use 1 or more"),
    "accumulate_grad_batches": _Rule(lambda value: value != 1, _BATCH),
    "val_check_interval": _Rule(lambda value: value not in (None, 1.0), _BATCH),
    "check_val_every_n_epoch": _Rule(lambda value: value not in (None, 1), _BATCH),
    "limit_train_batches": _Rule(lambda value: value not in (None, 1.0), _LENGTH),
    "limit_val_batches": _Rule(
        lambda value: value not in (None, 1.0),
        "would measure losses that the mixture must not follow. Leave it out and set data.validation_sequences",
    ),
    "overfit_batches": _Rule(lambda value: value != 0, _LENGTH),
    "fast_dev_run": _Rule(
        bool,
        "is no run of this package. For a trial use trainer.max_steps=2 and data.mixture.update_every_steps=1",
    ),
    "max_epochs": _Rule(lambda value: value is not None, _LENGTH),
    "min_epochs": _Rule(lambda value: value is not None, _LENGTH),
    "min_steps": _Rule(lambda value: value is not None, _LENGTH),
    "reload_dataloaders_every_n_epochs": _Rule(
        lambda value: value != 0,
        "would begin the order of sequences anew. Leave it out",
    ),
    "use_distributed_sampler": _Rule(
        bool, "would deal sequences a second time: they are dealt to processes already. Leave it out"
    ),
    "enable_checkpointing": _Rule(
        lambda value: value is False,
        "has no effect: a run that is stopped goes on from its checkpoints. Remove it and set checkpoint.every_steps "
        "and checkpoint.keep",
    ),
    "barebones": _Rule(bool, "would switch off the log and the checkpoints of the run. Leave it out"),
}
_TUNERS = {
    "LearningRateFinder": "model.optimizer has a learning rate for each group. Leave it out and set those",
    "BatchSizeFinder": "the batch belongs to the order of sequences. Leave it out and set data.micro_batch",
    "GradientAccumulationScheduler": "accumulation follows from data.global_batch. Leave it out and set that",
    "StochasticWeightAveraging": "gates and multipliers have no mean of their own. Leave it out",
    "ModelPruning": "model.pruning is what prunes. Leave it out",
}
"""Callbacks of Lightning that change what other settings say, by name."""


def check_trainer(settings: Any) -> None:
    """Refuse settings of the Trainer that are impossible here, or that other keys decide.

    Raises:
        RunError, StrategyError: one of them, with its key.
    """
    _check_device(str(settings.accelerator), settings.devices)
    strategy = settings.strategy
    if isinstance(strategy, str):
        check_strategy(strategy)
    else:
        check_strategy(strategy.class_path, is_class=True)
    check_precision(settings.precision)
    for key, rule in _RULES.items():
        if rule.wrong(value := settings.get(key)):
            raise RunError(f"{_said(value)} {rule.why}.", key=f"trainer.{key}")
    for name in _class_names(settings.callbacks):
        if name in _TUNERS:
            raise RunError(
                f"{name} does not go with a run of this package: {_TUNERS[name]}.", key="trainer.callbacks"
            )


def check_watched(callbacks: Sequence[Any], numbers: Collection[str]) -> None:
    """Refuse callbacks that watch a number which no validation gives.

    Raises:
        RunError: one of them does.
    """
    for callback in callbacks:
        watched = getattr(callback, "monitor", None)
        if watched is not None and watched not in numbers:
            raise RunError(
                f"{type(callback).__name__} watches {watched!r}, which no validation gives. Use monitor: "
                f"{' or '.join(numbers)}.",
                key="trainer.callbacks",
            )


def check_strategy(strategy: str, *, is_class: bool = False) -> None:
    """Refuse strategies that do not exist, and the sharded ones that cannot train gates.

    Raises:
        StrategyError: it is one of these.
    """
    name = strategy.rsplit(".", 1)[-1].lower()
    if name in (*REFUSED_STRATEGIES, "fsdpstrategy"):
        raise StrategyError(
            f"{strategy} flattens gates, multipliers and weights into one parameter, which must have learning rates of "
            f"their own, and needs an accelerator. Use trainer.strategy=fsdp2.",
            key="trainer.strategy",
        )
    if name.startswith("deepspeed"):
        raise StrategyError(
            f"{strategy} shards the optimizer's state in a way of its own, which checkpoints here do not read. "
            f"Use trainer.strategy=fsdp2.",
            key="trainer.strategy",
        )
    if not is_class and strategy not in ("auto", *StrategyRegistry.available_strategies()):
        raise StrategyError(
            f"{strategy} is no strategy. Use auto, ddp, fsdp2 or another name of Lightning's, or for a class "
            f"trainer.strategy.class_path.",
            key="trainer.strategy",
        )


def check_precision(precision: str | int | None) -> None:
    """Refuse precisions in which gates and multipliers would not stay float32.

    Raises:
        StrategyError: another than float32 or bfloat16 beside float32 weights was asked for.
    """
    if str(precision) not in ("None", "32", "32-true", "bf16", "bf16-mixed"):
        raise StrategyError(
            f"{precision} is not trained in: gates, multipliers, their gradients and AdamW's moments need float32, "
            f"which it casts away or scales. Use trainer.precision=bf16-mixed, or 32-true.",
            key="trainer.precision",
        )


def _check_device(accelerator: str, devices: Any) -> None:
    """Refuse an accelerator that this machine does not have, and a number of devices that it cannot give.

    Raises:
        RunError: the accelerator or the number is not to be had here.
    """
    known = ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
    if "." not in accelerator and accelerator not in known:
        raise RunError(f"{accelerator} is none. Use {', '.join(known)}.", key="trainer.accelerator")
    there = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    there["gpu"] = there["cuda"] or there["mps"]
    if there.get(accelerator) == 0:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise RunError(
            f"{accelerator}: torch {torch.__version__}, {built}, finds none on this machine. Use "
            f"trainer.accelerator=auto, which takes the best that there is, or start the run where one is.",
            key="trainer.accelerator",
        )
    wanted = _device_count(devices)
    if wanted is not None and wanted < 1 and str(devices) != "-1":
        raise RunError(f"{devices} is no number of processes. Use 1 or more, or auto.", key="trainer.devices")
    if wanted is not None and wanted > there.get(accelerator, wanted):
        raise RunError(
            f"{devices}: this machine has {there[accelerator]}. Use {there[accelerator]} or less, or auto; several "
            f"machines are trainer.num_nodes.",
            key="trainer.devices",
        )


def _device_count(devices: Any) -> int | None:
    """How many devices are asked for; None where that is left to the machine.

    Raises:
        RunError: it is neither a number nor a list of numbers.
    """
    if isinstance(devices, list):
        return len(devices)
    if devices == "auto":
        return None
    try:
        return len(devices.split(",")) if "," in str(devices) else int(devices)
    except ValueError as error:
        raise RunError(
            f"{devices} is neither a number of devices nor a list of them. Use auto, a number, or for example [0, 1].",
            key="trainer.devices",
        ) from error


def _class_names(value: Any) -> Iterator[str]:
    """The names of the classes that a setting names or holds."""
    for item in value if isinstance(value, list) else [value]:
        path = getattr(item, "class_path", None) or type(item).__name__
        yield str(path).rsplit(".", 1)[-1]


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
