"""Where a run computes, how it is spread over processes, and in which numbers: what is not to be had is refused."""

from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from shear_lit.training.errors import RunError
from shear_lit.training.strategies import REFUSED_STRATEGIES, StrategyError


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


def check_device(accelerator: str, devices: Any) -> None:
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
