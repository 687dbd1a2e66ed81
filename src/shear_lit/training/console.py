"""What a person sees of a run: a bar on a terminal, one line per report anywhere else."""

import logging
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from shear_lit.progress import time_left

_OF_THE_BAR = 50
"""Columns that a bar takes with its steps, its time and its speed."""
_log = logging.getLogger(__name__)


class StepBar(ProgressBar):
    """Counts optimizer steps, and shows the last report: nothing is read from the device for it."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._disabled = False

    def disable(self) -> None:
        """Show nothing (Lightning asks for it on all processes but one)."""
        self._disabled = True

    def enable(self) -> None:
        """Show it again."""
        self._disabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Write a line without breaking the bar."""
        if not self._disabled:
            tqdm.write(" ".join(str(arg) for arg in args), file=sys.stderr)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin where the run stands."""
        if not self._disabled:
            self._bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, unit="step", dynamic_ncols=True
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on when a step is complete."""
        if self._bar is not None and trainer.global_step > self._bar.n:
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it is."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the bar as it is."""
        self._close()

    def show(self, numbers: Mapping[str, float]) -> None:
        """Show the numbers of a report behind the bar."""
        if self._bar is not None:
            room = shutil.get_terminal_size().columns - _OF_THE_BAR
            self._bar.set_postfix_str(_fitting(_summary(numbers), room))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def show(trainer: L.Trainer, numbers: Mapping[str, float], *, seconds_left: float | None) -> None:
    """Tell a person of a report: in the run's own bar if it is shown, otherwise in a line with the time left."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, StepBar):
        bar.show(numbers)
    else:
        left = "" if seconds_left is None else f", {time_left(seconds_left)}"
        say(
            trainer,
            f"step {trainer.global_step} of {trainer.max_steps}: {', '.join(_summary(numbers))}{left}",
        )


def say(trainer: L.Trainer, text: str) -> None:
    """Tell a person something in lines of their own, above the bar where there is one; one process speaks for all."""
    bar = trainer.progress_bar_callback
    if not trainer.is_global_zero:
        return
    for line in text.splitlines():
        _log.info("%s", line) if bar is None else bar.print(line)


def is_watched(trainer: L.Trainer) -> bool:
    """Whether a person watches the run on a terminal."""
    return isinstance(trainer.progress_bar_callback, StepBar) and sys.stderr.isatty()


def _fitting(parts: list[str], room: int) -> str:
    """The first of the parts, and those others that there is room for."""
    shown = parts[:1]
    for part in parts[1:]:
        if len(", ".join([*shown, part])) <= room:
            shown.append(part)
    return ", ".join(shown)


def _summary(numbers: Mapping[str, float]) -> list[str]:
    names = {
        "loss/language": ("loss", "{:.4f}"),
        "loss/divergence": ("divergence", "{:.4f}"),
        "loss/layers": ("layers", "{:.4f}"),
        "loss/size_penalty": ("size penalty", "{:.4f}"),
        "speed/tokens_per_second": ("tokens/s", "{:,.0f}"),
    }
    shown = [f"{name} {form.format(numbers[key])}" for key, (name, form) in names.items() if key in numbers]
    sizes = [
        f"{key.split('/')[1]} {numbers[key]:.1f}→{numbers[key.replace('expected', 'target')]:.1f}"
        for key in numbers
        if key.endswith("/expected")
    ]
    return [*shown, *sizes]
