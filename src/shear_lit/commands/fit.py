"""``shear-lit fit`` and ``validate``: a LightningCLI with fixed classes, checked before any weight is read."""

import logging
import shlex
import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from shear_lit.commands.failures import chain, one_line
from shear_lit.commands.help import short_help
from shear_lit.commands.parsing import OneLineErrors, in_words_of
from shear_lit.commands.table import Command
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.disk.names import expanded, split_revision
from shear_lit.disk.writing import free_path, write_file
from shear_lit.evaluation.suites.processes import Processes
from shear_lit.mistakes import Mistake
from shear_lit.progress import is_quiet
from shear_lit.reporting.run_lines import ending
from shear_lit.training.anomaly import anomalies_named
from shear_lit.training.boundary import Boundary
from shear_lit.training.checks import check_run
from shear_lit.training.console import StepBar
from shear_lit.training.errors import RunError
from shear_lit.training.launcher import end_with_launcher
from shear_lit.training.lightning_loops import NEVER, leave_signals_alone
from shear_lit.training.metrics_file import MetricsFile
from shear_lit.training.module import ShearingModule, TrainingSettings
from shear_lit.training.run_checkpoints import complete_checkpoints, step_of
from shear_lit.training.run_files import CONFIG, METRICS, PROVENANCE
from shear_lit.training.run_start import checkpoint_to_start_from, marked, nothing_left
from shear_lit.training.shipped import check_name_of_logger, keep_in_run, listed, open_loggers
from shear_lit.training.stopping import Stopped, stopped_by
from shear_lit.training.strategies import FSDP2Strategy, ShardedMixedPrecision
from shear_lit.training.suite_step import EvaluationSettings, SuiteStep
from shear_lit.training.time_limit import TimeLimit, duration_of
from shear_lit.training.trainer_settings import check_trainer
from shear_lit.training.trial import trial

# Lightning brings a handler of its own, which would say every line a second time.
logging.getLogger("lightning").handlers.clear()

TRAINING = ("fit", "validate")
"""The commands that need a Trainer."""
_DATALOADERS = ("train_dataloaders", "val_dataloaders", "dataloaders")
_ALL, _ENVIRONMENT = "--help_all", "--help_environment"


def run_training(name: str, command: Command, flags: Sequence[str]) -> str | Stopped | None:
    """Build a run from YAML and flags, check it as a whole, and start it.

    Gives what a validation found, or how a run was stopped by a signal.
    """
    end_with_launcher()
    asked = {word for word in flags if word in (_ALL, _ENVIRONMENT)}
    TrainingParser.short, TrainingParser.shows_environment = not asked, _ENVIRONMENT in asked
    flags = ["--help" if word in asked else word for word in flags]
    with in_words_of(name, command, flags), ExitStack() as ShearingCLI.at_end:
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

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse; a logger of Lightning's that no Trainer takes is refused by its name."""
        if "trainer.logger" in message:
            check_name_of_logger(message.rpartition("Given value: ")[2])
        super().error(message, ex)

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

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write it into the run's directory, wherever the loggers write."""
        if stage == "fit":
            self._resolve_target(pl_module)
            self._resolve_revision(pl_module)
            content = self.parser.dump(self.config, skip_none=False)
            write_file(free_path(Path(trainer.default_root_dir) / CONFIG), content)

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
    found: str | Stopped | None = None
    """The losses of a validation, a line for each domain; or how a run was stopped by a signal."""
    at_end: ExitStack
    """What is undone when the command ends."""

    def __init__(self, args: Sequence[str]) -> None:
        ShearingCLI.name, self._words = args[0], args
        super().__init__(
            ShearingModule,
            DomainData,
            args=list(args),
            parser_class=TrainingParser,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
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
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The command that was typed: the parser of the other one would take as long again."""
        return {ShearingCLI.name: {"model", "datamodule", *_DATALOADERS}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the checkpoints keys of their own, and both commands those of data loaders: they share files."""
        parser.add_lightning_class_args(Boundary, "checkpoint")
        parser.add_class_arguments(TrainingSettings, "training")
        parser.add_class_arguments(EvaluationSettings, "evaluation")
        for key in _DATALOADERS:
            parser.add_argument(f"--{key}", type=Any, default=None, help=SUPPRESS)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: a checkpoint does not override what the user says."""

    def before_instantiate_classes(self) -> None:
        """Refuse what the Trainer cannot do, and expand ``~``, before Lightning builds anything."""
        settings = self._get(self.config, "trainer")
        settings.default_root_dir = str(self._run_of_config_file() or expanded(settings.default_root_dir))
        check_trainer(settings)
        asked = self.config[self.subcommand]
        if settings.fast_dev_run:
            self.at_end.enter_context(trial(asked, fitting=self.subcommand == "fit"))
        if asked.get("ckpt_path") is not None:
            asked.ckpt_path = str(expanded(asked.ckpt_path))
        for key in _DATALOADERS:
            if self._get(self.config, key) is not None:
                raise RunError(f"{key} has no effect: data come from data.directory. Remove it.")

    def _run_of_config_file(self) -> Path | None:
        """The run whose own ``config.yaml`` was named: it goes on where it lies now, also if it was moved."""
        files = self.config[self.subcommand].get("config") or []
        folder = Path(str(files[-1])).parent.resolve() if files else None
        if folder is None or not (folder / PROVENANCE).is_file():
            return None
        return None if any(word.startswith("--trainer.default_root_dir") for word in self._words) else folder

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
            self.model.skip_nonfinite = self._get(self.config_init, "training").skip_nonfinite
            self._prepare_suite(self._get(self.config_init, "evaluation"))
        except Exception as error:
            *_, innermost = chain(error)
            if any(isinstance(link, Mistake) for link in chain(error)):
                raise
            key = self._key_of_class(f"{error} {innermost}")
            raise RunError(f"{key}: {one_line(innermost)} Correct it, or leave it out.") from error

    def _prepare_suite(self, settings: EvaluationSettings) -> None:
        if settings.suite is not None and self.subcommand == "fit":
            from shear_lit.commands.scoring import suite_named

            callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
            (boundary,) = (each for each in callbacks if isinstance(each, Boundary))
            boundary.suite_step = SuiteStep(suite_named(settings.suite), settings)

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
        asked, given = self._get(self.config_init, "trainer"), self.config_init[self.subcommand]
        given["ckpt_path"] = checkpoint_to_start_from(given.get("ckpt_path"), asked.default_root_dir)
        if self.subcommand != "fit":
            kwargs["logger"] = False  # what is measured on the side belongs to no run's log
        elif asked.logger in (None, True):
            root = Path(asked.default_root_dir)
            # What followed the checkpoint that a run goes on from is shown no more.
            step = -1 if given["ckpt_path"] is None else step_of(Path(given["ckpt_path"]))
            shown: dict[str, Any] = {} if step < 0 else {"purge_step": step + 1}
            tensorboard = TensorBoardLogger(save_dir=root, name="", version="", **shown)
            kwargs["logger"] = [tensorboard, MetricsFile(root / METRICS)]
        callbacks, wants_bar = listed(asked.callbacks), asked.enable_progress_bar
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        shows_bar = (has_bar or (sys.stderr.isatty() and not is_quiet())) if wants_bar is None else wants_bar
        if shows_bar and not has_bar:
            callbacks.append(StepBar())
        if asked.max_time is not None:  # first: the others see that the run stops
            callbacks.insert(0, TimeLimit(duration_of(asked.max_time)))
        keep_in_run(callbacks, asked.default_root_dir)
        kwargs |= {"callbacks": callbacks, "enable_progress_bar": shows_bar, "max_time": None}
        sharded = asked.strategy == "fsdp2" or isinstance(asked.strategy, FSDP2Strategy)
        if sharded and asked.precision in ("bf16", "bf16-mixed"):
            kwargs |= {"precision": None, "plugins": [*listed(asked.plugins), ShardedMixedPrecision()]}
        trainer = super().instantiate_trainer(**kwargs, check_val_every_n_epoch=NEVER)
        leave_signals_alone(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; of a run that is refused before its first step, nothing is left."""
        with (
            nothing_left(Path(self.trainer.default_root_dir)),
            anomalies_named(),
            ExitStack() as self._held,
        ):
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        """Check the run, take its directory, and let the user's loggers reach what they write to."""
        self._check(fitting=True)
        settings = self.config_init[self.subcommand]
        self._held.enter_context(marked(self.trainer, settings.get("ckpt_path")))
        if settings.trainer.logger not in (None, True):
            open_loggers(self.trainer.loggers)

    def after_fit(self) -> None:
        """Say by which signal the run was stopped, or what may follow one that has ended."""
        self.found = stopped_by(self.trainer) or self._next_commands()

    def _next_commands(self) -> str:
        trainer = self.trainer
        saved = complete_checkpoints(trainer.default_root_dir)
        if not trainer.is_global_zero or not saved:
            return ""
        prunes = self.model.pruning is not None
        return ending(shlex.quote(trainer.default_root_dir), shlex.quote(str(saved[-1])), prunes=prunes)

    def before_validate(self) -> None:
        """Check the run."""
        self._check(fitting=False)

    def after_validate(self) -> None:
        """Keep the losses, with the errors of all processes' documents."""
        documents, trainer = self.model.document_losses, self.trainer
        if self.model.domain_losses is None or documents is None:
            return
        documents.take(Processes(rank=trainer.global_rank, size=trainer.world_size).gather(documents.sums()))
        if trainer.is_global_zero:
            losses = enumerate(zip(self.datamodule.domains, self.model.domain_losses.tolist(), strict=True))
            self.found = "\n".join(
                f"{name:<24} {loss:.4f} nats per token, {documents.figures(number)}"
                for number, (name, loss) in losses
            )

    def _check(self, *, fitting: bool) -> None:
        checkpoint = self.config_init[self.subcommand].get("ckpt_path")
        check_run(self.model, self.datamodule, self.trainer, checkpoint=checkpoint, fitting=fitting)
