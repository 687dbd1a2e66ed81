"""Callbacks and loggers that ship with Lightning: which of them go with a run, and what those that do not would do."""

from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.callbacks import ModelCheckpoint

from shear_lit.training.errors import RunError


class Standing(Enum):
    """What becomes of a key or a class of Lightning's."""

    WORKS = "works"
    """As Lightning's documentation says."""
    MEANS = "means"
    """Something of its own here."""
    REFUSED = "refused"
    """With the key to use in its place."""
    UNTRIED = "untried"
    """Handed to Lightning as it is: it needs an account that no test has."""


class Shipped(NamedTuple):
    """A class that ships with Lightning."""

    standing: Standing
    says: str
    """What it does here; of one that is refused, the reason and the repair, after its name."""


_WORKS, _MEANS, _REFUSED = Standing.WORKS, Standing.MEANS, Standing.REFUSED
_BASE = "it does nothing by itself. Name a class that extends it, or leave it out"
_NO_MEAN = (
    "its mean stands in validations and checkpoints in place of the weights, gates and multipliers that are trained, "
    "and cannot be sharded. Leave it out"
)
_FREEZES = "it would freeze what is trained. Leave it out; learning rates are those of model.optimizer"

CALLBACKS: dict[str, Shipped] = {
    "BackboneFinetuning": Shipped(_REFUSED, _FREEZES),
    "BaseFinetuning": Shipped(_REFUSED, _FREEZES),
    "BasePredictionWriter": Shipped(
        _REFUSED, "a run predicts nothing. Leave it out; evaluate measures an export"
    ),
    "BatchSizeFinder": Shipped(
        _REFUSED, "the batch belongs to the order of sequences. Leave it out and set data.micro_batch"
    ),
    "Callback": Shipped(_REFUSED, _BASE),
    "Checkpoint": Shipped(_REFUSED, _BASE),
    "DeviceStatsMonitor": Shipped(
        _WORKS, "Logs the memory of a GPU, and with `cpu_stats` the load of the processor, at every step."
    ),
    "EarlyStopping": Shipped(
        _MEANS,
        "Looks once per validation: `monitor` is `loss/validation/mean` or `loss/validation/<domain>`.",
    ),
    "EMAWeightAveraging": Shipped(_REFUSED, _NO_MEAN),
    "GradientAccumulationScheduler": Shipped(
        _REFUSED, "accumulation follows from data.global_batch. Leave it out and set that"
    ),
    "LambdaCallback": Shipped(_WORKS, "Each hook is the dotted name of a function."),
    "LearningRateFinder": Shipped(
        _REFUSED,
        "the learning rates are those of model.optimizer, one for each group. Leave it out and set those",
    ),
    "LearningRateMonitor": Shipped(
        _WORKS, "Every report has `learning_rate/<group>` anyway; this adds momentum and weight decay."
    ),
    "ModelCheckpoint": Shipped(
        _MEANS,
        "Keeps checkpoints among those of `checkpoint.every_steps`, or in `dirpath`, for example the best by `monitor: "
        "loss/validation/<domain>`. `--ckpt_path` and `export` take them, but `last` is one of the run's own.",
    ),
    "ModelPruning": Shipped(_REFUSED, "gates prune, as model.pruning says. Leave it out"),
    "ModelSummary": Shipped(_WORKS, "The same as `trainer.enable_model_summary`, with a depth."),
    "OnExceptionCheckpoint": Shipped(
        _REFUSED,
        "it deletes its file after a run that went well, and a process that fails alone would wait for the others. "
        "Leave it out and set checkpoint.every_steps",
    ),
    "ProgressBar": Shipped(_REFUSED, _BASE),
    "RichModelSummary": Shipped(_WORKS, "`ModelSummary` as a table; needs the package rich."),
    "RichProgressBar": Shipped(
        _MEANS, "Takes the place of the bar of the run, and counts micro-batches; needs the package rich."
    ),
    "SpikeDetection": Shipped(
        _REFUSED,
        "it waits for the device at every micro-batch, and nothing here skips the batches that it writes down. Leave "
        "it out: a run stops by itself where a loss is not finite",
    ),
    "StochasticWeightAveraging": Shipped(_REFUSED, _NO_MEAN),
    "ThroughputMonitor": Shipped(
        _REFUSED,
        "it waits for the device at every micro-batch, and the size of a batch would be a function of Python. Leave "
        "it out: speed/tokens_per_second is in every report",
    ),
    "Timer": Shipped(
        _REFUSED, "it stops between two micro-batches of a step. Leave it out and set trainer.max_time"
    ),
    "TQDMProgressBar": Shipped(_MEANS, "Takes the place of the bar of the run, and counts micro-batches."),
    "WeightAveraging": Shipped(_REFUSED, _NO_MEAN),
}
"""The callbacks of ``lightning.pytorch.callbacks``, by name."""

_REPORTERS = ("DeviceStatsMonitor", "LearningRateMonitor")

LOGGERS: dict[str, Shipped] = {
    "CometLogger": Shipped(
        Standing.UNTRIED,
        "Needs the package comet_ml and an API key. `online: false` is refused: Lightning switches it off.",
    ),
    "CSVLogger": Shipped(_WORKS, "A row for each report, and a column for each number."),
    "LitLogger": Shipped(
        _REFUSED,
        "it is none that a Trainer takes from a command line. Use TensorBoardLogger, WandbLogger or CSVLogger",
    ),
    "Logger": Shipped(_REFUSED, _BASE),
    "MLFlowLogger": Shipped(
        _WORKS,
        "With `tracking_uri: sqlite:///runs.db` or a server's address; mlflow refuses folders of files from 3.13 on. "
        "Pictures lie in `artifact_location`, by default in `mlruns` beside you. Needs the package mlflow.",
    ),
    "TensorBoardLogger": Shipped(_WORKS, "What a run has by itself, in its own directory."),
    "WandbLogger": Shipped(
        _WORKS,
        "With `offline: true` in files below `save_dir`; needs the package wandb, and online an API key.",
    ),
}
"""The loggers of ``lightning.pytorch.loggers``, by name."""


def check_shipped(key: str, value: Any, shipped: dict[str, Shipped]) -> None:
    """Refuse classes of Lightning's that do not go with a run.

    Raises:
        RunError: ``value`` names one or holds it.
    """
    for name in class_names(value):
        _check_name(key, name, shipped)
    for item in listed(value):
        online = getattr(item, "init_args", {}).get("online")
        if "CometLogger" in class_names(item) and online is False:
            raise RunError(
                "CometLogger with online: false writes nothing, as Lightning switches it off. Use an API key, or "
                "CSVLogger.",
                key=f"trainer.{key}",
            )


def check_reporters(callbacks: Any, logger: Any) -> None:
    """Refuse callbacks that report to loggers where there is none.

    Raises:
        RunError: there is such a callback.
    """
    if logger is False or logger == []:
        for name in class_names(callbacks):
            if name in _REPORTERS:
                raise RunError(
                    f"{name} reports to loggers, and trainer.logger={str(logger).lower()} is none. Leave one of them "
                    f"out.",
                    key="trainer.callbacks",
                )


def check_name_of_logger(value: str) -> None:
    """Refuse a logger of Lightning's by the name that was typed, of which no parser makes a class.

    Raises:
        RunError: it does not go with a run.
    """
    _check_name("logger", value.strip().rsplit(".", 1)[-1], LOGGERS)


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


def open_loggers(loggers: Sequence[Any]) -> None:
    """Let the loggers that the user names reach what they write to, before any weight is read.

    Raises:
        RunError: one of them cannot.
    """
    for logger in loggers:
        try:
            _ = logger.experiment
        except Exception as error:  # each service has errors of its own
            said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise RunError(
                f"{type(logger).__name__} does not begin: {said}. Correct it, or leave it out.",
                key="trainer.logger",
            ) from error


def keep_in_run(callbacks: Sequence[Any], run: str) -> None:
    """Let callbacks that keep checkpoints, and are not told where, do so in the run: not in a logger's folder."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(Path(run) / "checkpoints")


def listed(value: Any) -> list[Any]:
    """What a setting holds that is one of something, several, or none."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def class_names(value: Any) -> Iterator[str]:
    """The names of the classes that a setting names or holds."""
    for item in listed(value):
        path = getattr(item, "class_path", None) or type(item).__name__
        yield str(path).rsplit(".", 1)[-1]


def _check_name(key: str, name: str, shipped: dict[str, Shipped]) -> None:
    found = shipped.get(name)
    if found is not None and found.standing is Standing.REFUSED:
        raise RunError(f"{name} does not go with a run of this package: {found.says}.", key=f"trainer.{key}")
