"""What may be said to Lightning's Trainer: every key of it, checked before anything is built (docs/trainer.md)."""

import math
from collections.abc import Callable
from pydoc import locate
from typing import Any, NamedTuple

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.plugins import LayerSync, Precision

from shear_lit.training.devices import check_device, check_precision, check_strategy
from shear_lit.training.errors import RunError
from shear_lit.training.shipped import CALLBACKS, LOGGERS, Standing, check_reporters, check_shipped, listed
from shear_lit.training.time_limit import duration_of


class Key(NamedTuple):
    """A key of the Trainer."""

    standing: Standing
    says: str
    """What it does here; of one that is refused, what follows the key and its value: the reason and the repair."""
    wrong: Callable[[Any], bool] = lambda value: False
    """Whether a value is refused; of a key that is refused, which values are more than its default."""
    why: str = ""
    """What follows the key and a value that is refused, where others are not."""


def _is_no_norm(value: Any) -> bool:
    return value is not None and ((isinstance(value, float) and not math.isfinite(value)) or value < 0)


def _is_not_all(value: Any) -> bool:
    """Whether a limit leaves something out: 1.0 is all batches, and 1 is one of them."""
    return not (value is None or (isinstance(value, float) and value == 1.0))


_WORKS, _MEANS, _REFUSED = Standing.WORKS, Standing.MEANS, Standing.REFUSED
_LENGTH = (
    "would cut the run elsewhere: its order, its validations and its length follow from trainer.max_steps and "
    "data.mixture.update_every_steps. Leave it out and set those"
)
_BATCH = (
    "has no effect here: it follows from data.global_batch, data.micro_batch and data.mixture.update_every_steps. "
    "Remove it and set those"
)
_NO_COMMAND = "has no effect: no command tests or predicts. Leave it out; evaluate measures an export"

KEYS: dict[str, Key] = {
    "accelerator": Key(
        _WORKS, "`auto`, `cpu`, `gpu`, `cuda` or `mps`; one that this machine lacks is refused."
    ),
    "strategy": Key(
        _MEANS,
        "`auto`, `ddp` or `fsdp2`, which is this package's own. Lightning's older `fsdp` and DeepSpeed are refused: "
        "use `fsdp2`.",
    ),
    "devices": Key(_WORKS, "A number, a list, or `auto`."),
    "num_nodes": Key(_WORKS, "Machines.", lambda nodes: nodes < 1, "is no number of machines. Use 1 or more"),
    "precision": Key(
        _MEANS,
        "`32-true` or `bf16-mixed`: weights, gates, multipliers and moments stay float32. Others are refused.",
    ),
    "logger": Key(
        _MEANS,
        "`null` and `true` are TensorBoard and `metrics.csv` in the run's directory; a logger that is named takes "
        "their place, and `false` is none. `validate` logs nothing.",
    ),
    "callbacks": Key(_WORKS, "They are added to the run's own; see the table below."),
    "fast_dev_run": Key(
        _MEANS,
        "`true` tries a run: two steps, a validation and a checkpoint in a temporary directory beside the run's, which "
        "is removed. Warm-ups are shortened, loggers that are named are not told, and nothing is kept.",
    ),
    "max_epochs": Key(_REFUSED, _LENGTH, lambda value: value is not None),
    "min_epochs": Key(_REFUSED, _LENGTH, lambda value: value is not None),
    "max_steps": Key(
        _MEANS,
        "The run's length in optimizer steps, a multiple of `data.mixture.update_every_steps`; schedules follow it.",
        lambda steps: steps < 1,
        "would train nothing. Use 1 or more",
    ),
    "min_steps": Key(_REFUSED, _LENGTH, lambda value: value is not None),
    "max_time": Key(
        _MEANS,
        "How long one start of the run may take, as `DD:HH:MM:SS`, counted from when it is built. It then ends after "
        "the step at hand and is saved, with exit code 0, and `--ckpt_path auto` goes on.",
    ),
    "limit_train_batches": Key(_REFUSED, _LENGTH, _is_not_all),
    "limit_val_batches": Key(
        _REFUSED,
        "would measure losses of some domains only, and the mixture follows all of them. Leave it out and set "
        "data.validation_sequences",
        _is_not_all,
    ),
    "limit_test_batches": Key(_REFUSED, _NO_COMMAND, _is_not_all),
    "limit_predict_batches": Key(_REFUSED, _NO_COMMAND, _is_not_all),
    "overfit_batches": Key(
        _REFUSED,
        "would train on a few micro-batches again and again, past the mixture. Leave it out; to learn a few texts, "
        "prepare those alone and set data.directory",
        lambda value: value != 0,
    ),
    "val_check_interval": Key(_REFUSED, _BATCH, _is_not_all),
    "check_val_every_n_epoch": Key(_REFUSED, _BATCH, lambda value: value not in (None, 1)),
    "num_sanity_val_steps": Key(
        _REFUSED,
        "would log losses of some domains only as those of the run. Use 0; data.mixture.update_at_start=true validates "
        "before the first step, and trainer.fast_dev_run=true tries a validation",
        lambda steps: steps != 0,
    ),
    "log_every_n_steps": Key(
        _MEANS,
        "Optimizer steps between two reports, each the mean over them.",
        lambda steps: steps is None or steps < 1,
        "is no number of steps. Use 1 or more",
    ),
    "enable_checkpointing": Key(
        _REFUSED,
        "would leave a run that is stopped nothing to go on from. Remove it and set checkpoint.every_steps and "
        "checkpoint.keep",
        lambda value: value is False,
    ),
    "enable_progress_bar": Key(
        _MEANS,
        "`null` is a bar on a terminal and a line for each report anywhere else; `true` and `false` are one of them.",
    ),
    "enable_model_summary": Key(_WORKS, "A table of the model's parts, before training."),
    "accumulate_grad_batches": Key(_REFUSED, _BATCH, lambda value: value != 1),
    "gradient_clip_val": Key(
        _WORKS,
        "1.0, as in the paper, unless it is said otherwise; `null` is none.",
        _is_no_norm,
        "is no norm of a gradient. Use 1.0 as the paper does, or null for none",
    ),
    "gradient_clip_algorithm": Key(
        _WORKS,
        "`norm`, as in the paper, or `value`.",
        lambda way: way not in (None, "norm", "value"),
        "is no way to clip. Use norm as the paper does, or value",
    ),
    "deterministic": Key(_WORKS, "`true` refuses operations that are not, `warn` names them."),
    "benchmark": Key(
        _REFUSED, "has no effect: it is for convolutions, and no model here has any. Leave it out", bool
    ),
    "inference_mode": Key(_WORKS, "Of `validate`: `false` uses `no_grad` in its place."),
    "use_distributed_sampler": Key(
        _REFUSED,
        "would deal sequences a second time: they are dealt to processes already. Leave it out",
        bool,
    ),
    "profiler": Key(
        _WORKS, "`simple`, `advanced`, `pytorch`, or a class; what it found is logged at the end."
    ),
    "detect_anomaly": Key(
        _WORKS, "Slow; a gradient that is not a number ends the run with the operation that gave it."
    ),
    "barebones": Key(
        _REFUSED,
        "would switch off the log and the checkpoints of the run. Leave it out; trainer.logger=false and a larger "
        "trainer.log_every_n_steps do without the log",
        bool,
    ),
    "plugins": Key(
        _MEANS, "The environment of a cluster, where it is not found by itself. Other plugins are refused."
    ),
    "sync_batchnorm": Key(_REFUSED, "has no effect: no model here has batch norms. Leave it out", bool),
    "reload_dataloaders_every_n_epochs": Key(
        _REFUSED,
        "would begin the order of sequences anew. Leave it out; data.mixture.max_epochs says how often a text may be "
        "read",
        lambda value: value != 0,
    ),
    "default_root_dir": Key(
        _MEANS,
        "The run's directory: a new one, or that of the checkpoint that is resumed; nothing in it is overwritten.",
    ),
    "enable_autolog_hparams": Key(
        _REFUSED,
        "has no effect: settings are in config.yaml of the run, and go to no logger. Leave it out",
        lambda value: value is False,
    ),
    "model_registry": Key(
        _REFUSED,
        "has no effect: checkpoints lie in trainer.default_root_dir. Leave it out",
        lambda value: value is not None,
    ),
}
"""The parameters of ``lightning.Trainer``, in its order."""


def check_trainer(settings: Any) -> None:
    """Refuse settings of the Trainer that are impossible here, or that other keys decide.

    Raises:
        RunError, StrategyError: one of them, with its key.
    """
    check_device(str(settings.accelerator), settings.devices)
    strategy = settings.strategy
    if isinstance(strategy, str):
        check_strategy(strategy)
    else:
        check_strategy(strategy.class_path, is_class=True)
    check_precision(settings.precision)
    for name, key in KEYS.items():
        if key.wrong(value := settings.get(name)):
            reason = key.says if key.standing is Standing.REFUSED else key.why
            raise RunError(f"{_said(value)} {reason}.", key=f"trainer.{name}")
    if settings.max_time is not None:
        duration_of(settings.max_time)
    _check_plugins(settings.plugins)
    check_shipped("callbacks", settings.callbacks, CALLBACKS)
    check_shipped("logger", settings.logger, LOGGERS)
    check_reporters(settings.callbacks, settings.logger)


def _check_plugins(plugins: Any) -> None:
    """Refuse plugins that would take the place of what a run sets up itself.

    Raises:
        RunError: one of them is no environment of a cluster.
    """
    reasons: dict[type, str] = {
        Precision: "sets the numbers that a run computes in. Leave it out and set trainer.precision",
        CheckpointIO: "has no effect: checkpoints are written by this package, whole or not at all. Leave it out",
        LayerSync: "has no effect: no model here has batch norms. Leave it out",
    }
    for plugin in listed(plugins):
        kind = locate(str(getattr(plugin, "class_path", "")))
        for refused, reason in reasons.items():
            if isinstance(kind, type) and issubclass(kind, refused):
                raise RunError(f"{kind.__name__} {reason}.", key="trainer.plugins")


def _said(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
