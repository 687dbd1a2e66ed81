"""What a forked process does: one command of the command line, watched."""

import sys
from collections.abc import Callable
from threading import RLock
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.tensorboard import SummaryWriter  # noqa: F401 (imported once, before the forks)
from tqdm import tqdm

from shear_lit import cli
from shear_lit.commands import fit as command
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.pruning.attach import AttachedGates
from shear_lit.training.run_log import RunLog

tqdm.set_lock(RLock())  # its own is a semaphore, which a killed process would leave behind


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU of a tensor that may be sharded; every rank must ask."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()


class Watch(Callback):
    """Keeps what a run did: each micro-batch with its gates and loss, each mixture, and where it ended."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"batches": {}, "mixtures": {}, "gates_after": {}, "norms": {}}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [whole(p.grad).double() for p in pl_module.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
        self.record["norms"][trainer.global_step] = float(norm)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        step = trainer.global_step - complete
        gates = pl_module.attached
        self.record["batches"][step, batch["micro_batch"]] = {
            "tokens": batch["tokens"].clone(),
            "domain": batch["domain"].clone(),
            "loss": float(outputs["language_loss"]),
            "penalty": float(outputs.get("size_penalty", 0.0)),
            "gates": {} if gates is None else {k: v.detach().clone() for k, v in gates.last_values.items()},
        }
        if complete and pl_module.gates is not None:
            self.record["gates_after"][trainer.global_step] = {
                axis.value: whole(rows) for axis, rows in pl_module.gates.log_alpha().items()
            }

    def on_validation_end(self, trainer, pl_module):
        if trainer.state.fn == "fit":
            self.record.setdefault("domain_losses", {})[trainer.global_step] = pl_module.domain_losses.clone()

    def on_train_end(self, trainer, pl_module):
        optimizer = trainer.optimizers[0]
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        self.record["parameters"] = {name: whole(p) for name, p in pl_module.named_parameters()}
        self.record["dtypes"] = {name: p.dtype for name, p in pl_module.named_parameters()}
        self.record["moments"] = {
            f"{names[id(parameter)]}.{key}": whole(value)
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }
        self.record["rates"] = [group["lr"] for group in optimizer.param_groups]
        self.record["data"] = trainer.datamodule.state_dict()
        self.record["seen"] = getattr(pl_module, "seen", None)


def keep_gate_values() -> None:
    """Let the attached gates remember what was put in force."""
    put = AttachedGates.set

    def set_and_keep(self, values):
        self.last_values = {axis.value: gates for axis, gates in values.items()}
        put(self, values)

    AttachedGates.set = set_and_keep


def fit(
    arguments: list[str], sabotage: Callable[[], None] | None = None, *, stops: bool = False
) -> dict[str, Any]:
    """Run ``arguments`` as the command line does, after breaking the code with ``sabotage``; give what happened.

    A run that ``stops`` ends with an exit code, which is given besides.
    """
    keep_gate_values()
    if sabotage is not None:
        sabotage()
    watch = Watch()
    reports = []
    write, move = RunLog._write, DomainData.update_mixture

    def write_and_keep(self, numbers):
        reports.append((self._trainer.global_step, dict(numbers)))
        write(self, numbers)

    def move_and_keep(self, losses, *agreed):
        watch.record["mixtures"][self.trainer.global_step] = dict(move(self, losses, *agreed))

    RunLog._write, DomainData.update_mixture = write_and_keep, move_and_keep
    build = command.ShearingCLI.instantiate_trainer

    def build_watched(self, **options):
        trainer = build(self, **options)
        trainer.callbacks.insert(0, watch)
        return trainer

    command.ShearingCLI.instantiate_trainer = build_watched
    sys.argv = ["shear-lit", *arguments]
    code = 0
    try:
        cli.main()
    except SystemExit as error:
        if not stops:
            raise
        code = error.code
    return {**watch.record, "reports": reports, "code": code}


def run_command_line(arguments: list[str]) -> int:
    """Run a command line that is no run; give its exit code."""
    sys.argv = ["shear-lit", *arguments]
    cli.main()
    return 0
