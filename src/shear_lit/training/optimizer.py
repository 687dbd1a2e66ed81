"""One AdamW for the whole min-max game, and one schedule for all of its learning rates."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from shear_lit.ranges import CountFrom0, Fraction, NumberFrom0, PositiveNumber, as_plain_numbers
from shear_lit.training.errors import RunError


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its schedule; the defaults are the paper's for pruning (arXiv:2310.06694, table 7)."""

    weights_learning_rate: NumberFrom0 = 1e-4
    """Peak learning rate of the model's weights."""
    gates_learning_rate: NumberFrom0 = 1.0
    """Peak learning rate of the gates' log alpha."""
    multipliers_learning_rate: NumberFrom0 = 1.0
    """Peak learning rate of the Lagrange multipliers, which ascend."""
    warmup_steps: CountFrom0 = 320
    """Optimizer steps of linear warm-up, for all groups."""
    final_fraction: Fraction = 0.1
    """What is left of every learning rate at the end of the cosine."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments."""
    epsilon: PositiveNumber = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NumberFrom0 = 0.0
    """Decoupled weight decay, of the weights alone."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)
        for name in ("weights_learning_rate", "gates_learning_rate", "multipliers_learning_rate"):
            if getattr(self, name) < 0:
                raise RunError(
                    f"model.optimizer.{name}={getattr(self, name)} is negative: multipliers ascend by themselves. "
                    f"Use 0 or more."
                )
        if self.warmup_steps < 0 or not 0 <= self.final_fraction <= 1:
            raise RunError(
                f"model.optimizer: warmup_steps={self.warmup_steps} must not be negative and "
                f"final_fraction={self.final_fraction} must lie in [0, 1]. Use for example 320 and 0.1."
            )
        if not (all(0 <= beta < 1 for beta in self.betas) and self.epsilon > 0 and self.weight_decay >= 0):
            raise RunError(
                f"model.optimizer: betas={tuple(self.betas)} must lie in [0, 1), epsilon={self.epsilon} must be more "
                f"than 0, and weight_decay={self.weight_decay} must not be negative. "
                f"Use for example [0.9, 0.95], 1e-8 and 0."
            )


PAPER_PRUNING = OptimizerSettings()
"""The settings with which the paper prunes."""


def learning_rate_fraction(step: int, *, warmup_steps: int, total_steps: int, final_fraction: float) -> float:
    """The share of the peak learning rate at optimizer step ``step``: linear warm-up, then a cosine."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def build_optimizer(
    settings: OptimizerSettings,
    model: nn.Module,
    gates: nn.Module | None = None,
    multipliers: nn.Module | None = None,
) -> torch.optim.AdamW:
    """AdamW with a group for the weights that learn and, while pruning, one for the gates and one that ascends.

    The authors' release has the multipliers ascend by a negative learning rate; the update is the same (D5).
    """

    def group(name: str, parameters: Iterable[nn.Parameter], rate: float, **options: float | bool) -> dict:
        return {"name": name, "params": list(parameters), "lr": rate, **options}

    learning = (parameter for parameter in model.parameters() if parameter.requires_grad)
    groups = [group("weights", learning, settings.weights_learning_rate, weight_decay=settings.weight_decay)]
    if gates is not None:
        groups.append(group("gates", gates.parameters(), settings.gates_learning_rate, weight_decay=0.0))
    if multipliers is not None:
        groups.append(
            group(
                "multipliers",
                multipliers.parameters(),
                settings.multipliers_learning_rate,
                weight_decay=0.0,
                maximize=True,
            )
        )
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon)


def apply_settings(settings: OptimizerSettings, optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> None:
    """Put ``settings`` in force again after a state was loaded, which brings those of the run that saved it.

    The same settings change nothing.
    """
    rates = {
        "weights": settings.weights_learning_rate,
        "gates": settings.gates_learning_rate,
        "multipliers": settings.multipliers_learning_rate,
    }
    for index, group in enumerate(optimizer.param_groups):
        rate = rates[group["name"]]
        schedule.base_lrs[index] = rate
        group |= {
            "lr": rate * schedule.lr_lambdas[index](schedule.last_epoch),
            "initial_lr": rate,
            "betas": tuple(settings.betas),
            "eps": settings.epsilon,
        }
        if group["name"] == "weights":
            group["weight_decay"] = settings.weight_decay


def build_schedule(
    settings: OptimizerSettings, optimizer: torch.optim.Optimizer, *, total_steps: int
) -> LambdaLR:
    """The same warm-up and cosine for every group."""

    def fraction(step: int) -> float:
        return learning_rate_fraction(
            step,
            warmup_steps=settings.warmup_steps,
            total_steps=total_steps,
            final_fraction=settings.final_fraction,
        )

    return LambdaLR(optimizer, fraction)
