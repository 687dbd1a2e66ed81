"""``shear-lit fit`` and ``validate``: a LightningCLI with fixed classes, checked before any weight is read."""

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from shear_lit.commands.failures import chain, one_line
from shear_lit.commands.help import short_help
from shear_lit.commands.parsing import OneLineErrors, in_words_of
from shear_lit.commands.table import Command
from shear_lit.data.datamodule import DomainData
from shear_lit.disk.names import expanded, split_revision
from shear_lit.disk.writing import free_path
from shear_lit.mistakes import Mistake
from shear_lit.training.checks import check_run
from shear_lit.training.console import StepBar
from shear_lit.training.errors import RunError
from shear_lit.training.mixture_update import MixtureUpdate
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_directory import (
    GateFiles,
    Provenance,
    RunCheckpoints,
    latest_checkpoint,
    nothing_left,
)
from shear_lit.training.run_log import MetricsFile, RunLog
from shear_lit.training.strategies import FSDP2Strategy, ShardedMixedPrecision
from shear_lit.training.trainer_settings import check_trainer

# Lightning brings a handler of its own, which would say every line a second time.
logging.getLogger("lightning").handlers.clear()

TRAINING = ("fit", "validate")
"""The commands that need a Trainer."""
_ALL, _ENVIRONMENT = "--help_all", "--help_environment"


def run_training(name: str, command: Command, flags: Sequence[str]) -> str | None:
    """Build a run from YAML and flags, check it as a whole, and start it; gives what a validation found."""
    asked = {word for word in flags if word in (_ALL, _ENVIRONMENT)}
    TrainingParser.short, TrainingParser.shows_environment = not asked, _ENVIRONMENT in asked
    flags = ["--help" if word in asked else word for word in flags]
    with in_words_of(name, command, flags):
        return ShearingCLI([name, *flags]).found


def training_parser(name: str) -> LightningArgumentParser:
    """The parser of ``fit`` or ``validate``, of which nothing is built."""
    found: list[LightningArgumentParser] = []

    class Unbuilt(ShearingCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            assert parser._subcommands_action is not None
            found.append(parser._subcommands_action._name_parser_map[name])
            raise StopIteration

    with suppress(StopIteration):
        Unbuilt([name])
    return found[0]


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """The parser of the commands that need a Trainer."""

    short = True
    """Whether help fits two screens."""
    shows_environment = False
    """Whether help says how the variable of each key is called."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The keys of a command on two screens, or all there is to say."""
        name = self.prog.split()[-1]
        if self.short and name in TRAINING:
            return short_help(self, name)
        reads_environment, self.default_env = self.default_env, self.shows_environment
        try:
            return super().format_help(*args, **kwargs)
        finally:
            self.default_env = reads_environment


class RunConfig(SaveConfigCallback):
    """Writes ``config.yaml``, numbered where an earlier start of the same run has left one; only of a ``fit``."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find a free name, and write there."""
        if stage != "fit":
            return
        free = free_path(Path(trainer.default_root_dir) / "config.yaml").name
        self.config_filename = trainer.strategy.broadcast(free)
        self._resolve_target(pl_module)
        self._resolve_revision(pl_module)
        super().setup(trainer, pl_module, stage)

    def _resolve_target(self, module: Any) -> None:
        """Write the shape that was found for a target which is none, so that a resumed run finds the same."""
        if module.pruning is None:
            return
        asked = self.config.model.pruning
        asked.target = Namespace(**module.pruning.shape.to_dict())
        for way in ("parameters", "flops_fraction", "preset"):
            asked[f"target_{way}"] = None

    def _resolve_revision(self, module: Any) -> None:
        """Write the commit that was read of a model on the hub, for whoever starts a run from this file."""
        name, commit = split_revision(module.source)
        if commit is not None:
            self.config.model.source, self.config.model.revision = name, commit


class ShearingCLI(LightningCLI):
    """Builds a run from YAML and flags, and checks it as a whole before any weight is read."""

    name = "fit"
    """The command."""
    found: str | None = None
    """The losses of a validation, a line for each domain."""

    def __init__(self, args: Sequence[str]) -> None:
        ShearingCLI.name = args[0]
        super().__init__(
            ShearingModule,
            DomainData,
            args=list(args),
            parser_class=TrainingParser,
            save_config_callback=RunConfig,
            auto_configure_optimizers=False,
            seed_everything_default=17,
            parser_kwargs={"default_env": True, "env_prefix": "SHEAR", "prog": "shear_lit"},
            trainer_defaults={
                "default_root_dir": "runs/unnamed",
                "max_steps": 3200,
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 10,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "enable_model_summary": False,
                # FSDP2 in one process meets weights that were gathered in it, and cannot use them afterwards.
                "inference_mode": False,
                # The mixture moves first, so that what is reported after a validation is the new one.
                "callbacks": [MixtureUpdate(), RunLog(), GateFiles(), Provenance()],
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The command that was typed: the parser of the other one would take as long again."""
        return {ShearingCLI.name: {"model", "dataloaders", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the checkpoints keys of their own."""
        parser.add_lightning_class_args(RunCheckpoints, "checkpoint")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: a checkpoint does not override what the user says."""

    def before_instantiate_classes(self) -> None:
        """Refuse what the Trainer cannot do, and expand ``~``, before Lightning builds anything."""
        settings = self._get(self.config, "trainer")
        settings.default_root_dir = str(expanded(settings.default_root_dir))
        check_trainer(settings)
        asked = self.config[self.subcommand]
        if asked.get("ckpt_path") is not None:
            asked.ckpt_path = str(expanded(asked.ckpt_path))
        for key in ("train_dataloaders", "val_dataloaders", "dataloaders"):
            if self._get(self.config, key) is not None:
                raise RunError(f"{key} has no effect: data come from data.directory. Remove it.")

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            raise RunError(f"{seed} is no seed. Use 0 to {2**32 - 1}.", key="seed_everything")
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Build the run; what Lightning, or a class that the user names, refuses is theirs to change.

        Raises:
            RunError: one of them was refused.
        """
        try:
            super().instantiate_classes()
        except Exception as error:
            *_, innermost = chain(error)
            if any(isinstance(link, Mistake) for link in chain(error)):
                raise
            key = self._key_of_class(f"{error} {innermost}")
            raise RunError(f"{key}: {one_line(innermost)} Correct it, or leave it out.") from error

    def _key_of_class(self, message: str) -> str:
        """The key of the Trainer whose class an error speaks of."""
        settings = self._get(self.config, "trainer")
        for key, value in vars(settings).items():
            for item in value if isinstance(value, list) else [value]:
                path = getattr(item, "class_path", None)
                if path is not None and path in message:
                    return f"trainer.{key}={path}"
        return "trainer"

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Log to the run's directory, show a bar on a terminal, and keep gates float32 when sharded."""
        asked = self._get(self.config_init, "trainer")
        if self.subcommand != "fit":
            kwargs["logger"] = False  # what is measured on the side belongs to no run's log
        elif asked.logger in (None, True):
            root = Path(asked.default_root_dir)
            tensorboard = TensorBoardLogger(save_dir=root, name="", version="")
            kwargs["logger"] = [tensorboard, MetricsFile(root / "metrics.csv")]
        wants_bar = asked.enable_progress_bar
        kwargs["enable_progress_bar"] = sys.stderr.isatty() if wants_bar is None else wants_bar
        if kwargs["enable_progress_bar"]:
            kwargs["callbacks"] = [*(asked.callbacks or []), StepBar()]
        sharded = asked.strategy == "fsdp2" or isinstance(asked.strategy, FSDP2Strategy)
        if sharded and asked.precision in ("bf16", "bf16-mixed"):
            kwargs |= {"precision": None, "plugins": [*(asked.plugins or []), ShardedMixedPrecision()]}
        trainer = super().instantiate_trainer(**kwargs)
        # It says how often there is a validation, which callbacks of the user's look at when they are set up.
        cast(Any, trainer).callbacks.sort(key=lambda callback: not isinstance(callback, MixtureUpdate))
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; of a run that is refused before its first step, nothing is left."""
        with nothing_left(Path(self.trainer.default_root_dir)):
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        """Check the run."""
        self._check(fitting=True)

    def before_validate(self) -> None:
        """Check the run."""
        self._check(fitting=False)

    def after_validate(self) -> None:
        """Keep the losses."""
        if self.trainer.is_global_zero and self.model.domain_losses is not None:
            losses = zip(self.datamodule.domains, self.model.domain_losses.tolist(), strict=True)
            self.found = "\n".join(f"{name:<24} {loss:.4f} nats per token" for name, loss in losses)

    def _check(self, *, fitting: bool) -> None:
        settings = self.config_init[self.subcommand]
        if settings.get("ckpt_path") == "last":
            settings["ckpt_path"] = latest_checkpoint(self.trainer.default_root_dir)
        check_run(
            self.model, self.datamodule, self.trainer, checkpoint=settings.get("ckpt_path"), fitting=fitting
        )
