"""What loggers show besides numbers: pictures, the config, final losses, and a first page that is the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from shear_lit.data.order.mixture_log import MIXTURE_LOG, read_mixture_log
from shear_lit.disk.reading import parse_yaml, read_small
from shear_lit.reporting.pictures import gates_picture, mixture_picture, shape_picture
from shear_lit.theory.shape import Axis
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_files import CONFIG

_FINAL = "final/"
"""How the numbers begin that stand beside a run's settings in TensorBoard's table of runs."""


class Pictures:
    """Shows the run to those of its loggers that can show more than numbers; only the first process asks it to."""

    def __init__(self, trainer: L.Trainer, module: ShearingModule) -> None:
        self._trainer, self._module = trainer, module
        self._root = Path(trainer.default_root_dir)

    def begin(self) -> None:
        """Show the config, and lay out TensorBoard's first page."""
        text = self._config()
        for logger in self._trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(self._layout())
                if text:
                    logger.experiment.add_text("config", f"```yaml\n{text}\n```", self._trainer.global_step)
            elif isinstance(logger, WandbLogger) and text:
                logger.log_hyperparams(parse_yaml(text))
            elif isinstance(logger, MLFlowLogger) and text:
                logger.experiment.log_text(logger.run_id, text, CONFIG)

    def show(self, log_alpha: Mapping[Axis, Tensor] | None) -> None:
        """Show the gates and the shape that is expected of them, if there are any, and the mixture so far."""
        shown = {}
        if log_alpha is not None:
            chances = self._module.constraint().chances(log_alpha)
            shown = {f"gates/{axis.value}": gates_picture(axis, rows) for axis, rows in chances.items()}
            shown["shape/expected"] = shape_picture(self._module.family.shape, chances)
        changes = [(each.step, each.weights) for each in read_mixture_log(self._root / MIXTURE_LOG).updates]
        shown["mixture/so_far"] = mixture_picture(changes, self._trainer.max_steps)
        for name, picture in shown.items():
            self._show_one(name, picture)

    def end(self, losses: Mapping[str, float]) -> None:
        """Show the settings with the final losses, as one row of TensorBoard's table of runs."""
        text = self._config()
        for logger in self._trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and text:
                final = {f"{_FINAL}{name}": loss for name, loss in losses.items()}
                logger.log_hyperparams(parse_yaml(text), final, self._trainer.global_step)

    def _show_one(self, name: str, picture: Tensor) -> None:
        step = self._trainer.global_step
        for logger in self._trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, picture, step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [picture.numpy()], step=step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(
                    logger.run_id, picture.numpy(), key=name.replace("/", "-"), step=step
                )

    def _layout(self) -> dict[str, dict[str, list[Any]]]:
        """TensorBoard's first page: a card for each question, not for each number."""
        losses = {
            "loss of each domain": ["Multiline", ["loss/validation/.*"]],
            "distance from each reference": ["Multiline", ["loss/lag/.*"]],
            "loss while training": [
                "Multiline",
                ["loss/language", "loss/divergence", "loss/gates", "loss/layers"],
            ],
        }
        sizes = {
            f"{axis.value}: expected, and asked for": [
                "Multiline",
                [f"size/{axis.value}/expected", f"size/{axis.value}/target"],
            ]
            for axis in self._module.axes
        }
        machine = {
            "tokens per second": ["Multiline", ["speed/tokens_per_second"]],
            "memory": ["Multiline", ["memory/peak_gib"]],
        }
        data = {"mixture": ["Multiline", ["mixture/weight/.*"]]}
        pages = {"1 losses": losses, "2 sizes": sizes, "3 mixture": data, "4 machine": machine}
        return {name: cards for name, cards in pages.items() if cards}

    def _config(self) -> str:
        """The config of this start of the run; empty where it was not written."""
        written = sorted(
            self._root.glob(f"{Path(CONFIG).stem}*.yaml"), key=lambda path: path.stat().st_mtime_ns
        )
        return read_small(written[-1]).decode("utf-8") if written else ""
