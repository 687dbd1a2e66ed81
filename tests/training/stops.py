"""Runs that are told to stop at a chosen moment: the signal comes from within, so the moment is always the same."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shear_lit.training import boundary, module
from tests.training.forks import run
from tests.training.runs import fit

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
MOMENTS = ("before the first step", "training", "validation", "saving")
SPREAD = ("--trainer.strategy=fsdp2", "--trainer.devices=2")


def same(a: Any, b: Any) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def tell(number: int, moment: str, rank: int) -> None:
    """Let one process of the run get a signal once: in step 4, in the validation of step 4, in the save of step 6."""
    told = []

    def here(trainer: Any) -> None:
        if not told and trainer.global_rank == rank:
            told.append(moment)
            os.kill(os.getpid(), number)

    def before(owner: type, name: str, due: Callable[[Any], bool]) -> None:
        own = getattr(owner, name)

        def noted(self: Any, *args: Any, **options: Any) -> Any:
            if due(self.trainer):
                here(self.trainer)
            return own(self, *args, **options)

        setattr(owner, name, noted)

    Module, Boundary = module.ShearingModule, boundary.Boundary
    if moment == "before the first step":
        before(Module, "configure_model", lambda trainer: True)
    elif moment == "training":
        before(Module, "training_step", lambda trainer: trainer.global_step == 4)
    elif moment == "validation":
        before(Module, "validation_step", lambda trainer: trainer.global_step == 4)
    else:
        before(Boundary, "_save", lambda trainer: trainer.global_step == 6)


def stop_and_go_on(
    arguments: list[str], folder: Path, number: int, moment: str, *, processes: int = 1
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a run did until it was stopped, and what the same command did then."""
    arguments = [*arguments, "--ckpt_path=auto", *(SPREAD if processes == 2 else ())]
    options = dict(processes=processes, arguments=arguments)
    last = processes - 1  # where there are two, the second one is told alone
    stopped = run(
        fit,
        folder / "stopped",
        sabotage=_Told(number, moment, last),
        stops=True,
        **options,  # type: ignore[arg-type]
    )
    return stopped, run(fit, folder / "again", **options)  # type: ignore[arg-type]


class _Told:
    """A sabotage that can be sent to another process."""

    def __init__(self, number: int, moment: str, rank: int) -> None:
        self.told = number, moment, rank

    def __call__(self) -> None:
        tell(*self.told)


def wrong_in(
    whole: list[dict[str, Any]],
    stopped: list[dict[str, Any]],
    again: list[dict[str, Any]],
    number: int,
    folder: Path,
) -> list[str]:
    """What is not as it should be after a run was stopped and went on; nothing, if both are the uninterrupted one."""
    found = []
    # Lightning's launcher kills the first process when a child ends with another code than 0.
    for rank, record in enumerate(stopped):
        if record["code"] != (0 if rank else 128 + number):
            found.append(f"exit code {record['code']} of rank {rank}")
    for rank, (one, first, second) in enumerate(zip(whole, stopped, again, strict=True)):
        for part in ("batches", "mixtures", "domain_losses", "gates_after"):
            joined = {**first.get(part, {}), **second.get(part, {})}
            if not same(one[part], joined):
                found.append(f"{part} of rank {rank}")
        if overlap := first["batches"].keys() & second["batches"].keys():
            found.append(f"steps {sorted({step for step, _ in overlap})} were taken twice")
        for part in ("parameters", "moments", "rates", "data"):
            if not same(one[part], second[part]):
                found.append(f"{part} of rank {rank}")
    if (folder / "run" / "running.json").exists():
        found.append("the directory is still marked")
    return found
