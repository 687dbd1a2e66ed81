"""The command line: ``fit`` and ``validate`` are a LightningCLI with fixed classes, the others typed functions."""

import itertools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace, auto_cli, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from shear_lit.commands.check import check_prepared
from shear_lit.commands.data import data
from shear_lit.commands.demo.run import demo
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.export import export
from shear_lit.commands.from_mds import import_mds
from shear_lit.commands.gates import gates
from shear_lit.commands.mend import mend
from shear_lit.commands.mistakes import CommandParser, OneLineErrors, UsageError, own_message, refusal
from shear_lit.commands.prepare import prepare
from shear_lit.commands.rank import rank
from shear_lit.commands.reference import measure
from shear_lit.commands.verify import verify
from shear_lit.data.datamodule import DomainData
from shear_lit.training.checks import check_precision, check_run, check_strategy
from shear_lit.training.console import StepBar
from shear_lit.training.mixture_update import MixtureUpdate
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_directory import GateFiles, Provenance, RunCheckpoints, latest_checkpoint
from shear_lit.training.run_log import LossError, MetricsFile, RunLog
from shear_lit.training.strategies import FSDP2Strategy, ShardedMixedPrecision

_TRAINING = {
    "fit": "prune a model jointly with its weights, or continue pre-training one",
    "validate": "domain losses of a model or a checkpoint",
}
_COMMANDS: dict[str, tuple[Callable[..., Any] | dict[str, Any], str]] = {
    "prepare": (prepare, "raw text to tokenised, packed data per domain and split"),
    "data": (data, "look at prepared data: its manifest, its text, what a run would draw from it"),
    "reference": ({"measure": measure}, "reference losses for the mixture: measured on a model"),
    "export": (export, "checkpoint, or scores, to a verified Hugging Face directory of exactly a shape"),
    "evaluate": (evaluate, "domain losses of a Hugging Face directory"),
    "verify": (
        verify,
        "load a Hugging Face directory in the clients people use, and compare what they compute",
    ),
    "rank": (rank, "order a model's units by importance, without training"),
    "mend": (mend, "rewrite an export of an earlier version so that all programs read it"),
    "gates": (gates, "which units a cut keeps, and how far two cuts agree"),
    "demo": (demo, "all of it, small, on a real model and real text, with nothing to configure"),
}
_INSTEAD: dict[tuple[str, str], Callable[..., Any]] = {
    ("prepare", "--check"): check_prepared,
    ("prepare", "--from_mds"): import_mds,
}
"""Commands that a flag turns into another one, with keys of its own."""
_POSITIONAL = ("data",)
"""Commands whose needed arguments are given without their names."""
_PLACES = {"gates": ("directory", "other"), "verify": ("directory",), "mend": ("directory",)}
"""Keys whose values may also be given without them, before any flag."""


_UNSAID = (
    "💡 Tip",  # of services that have nothing to do with a run
    "TPU available",
    "`weights_only` was not set",  # said at every checkpoint: whole states are saved, as asked for
    "`Trainer.fit` stopped",
)
"""How messages of libraries begin that tell a person nothing about the run."""
_CHATTY = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """The parser of the commands that need a Trainer."""


class RunConfig(SaveConfigCallback):
    """Writes ``config.yaml``, numbered where an earlier start of the same run has left one; only of a ``fit``."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find a free name, and write there."""
        if stage != "fit":
            return
        number, self.config_filename = 1, "config.yaml"
        while (Path(trainer.default_root_dir) / self.config_filename).exists():
            number += 1
            self.config_filename = f"config-{number}.yaml"
        self.config_filename = trainer.strategy.broadcast(self.config_filename)
        self._resolve_target(pl_module)
        super().setup(trainer, pl_module, stage)

    def _resolve_target(self, module: Any) -> None:
        """Write the shape that was found for a target which is none, so that a resumed run finds the same."""
        if module.pruning is None:
            return
        asked = self.config.model.pruning
        asked.target = Namespace(**module.pruning.shape.to_dict())
        for way in ("parameters", "flops_fraction", "preset"):
            asked[f"target_{way}"] = None


class ShearingCLI(LightningCLI):
    """Builds a run from YAML and flags, and checks it as a whole before any weight is read."""

    def __init__(self, args: Sequence[str]) -> None:
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
                # The mixture moves first, so that what is reported after a validation is the new one.
                "callbacks": [MixtureUpdate(), RunLog(), GateFiles(), Provenance()],
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The two commands that need a Trainer."""
        return {name: {"model", "dataloaders", "datamodule"} for name in _TRAINING}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the checkpoints keys of their own."""
        parser.add_lightning_class_args(RunCheckpoints, "checkpoint")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: a checkpoint does not override what the user says."""

    def before_instantiate_classes(self) -> None:
        """Refuse a strategy or a precision before Lightning builds it."""
        strategy = self._get(self.config, "trainer.strategy")
        check_strategy(strategy if isinstance(strategy, str) else strategy.class_path)
        check_precision(self._get(self.config, "trainer.precision"))

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
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Check the run."""
        self._check(fitting=True)

    def before_validate(self) -> None:
        """Check the run."""
        self._check(fitting=False)

    def after_validate(self) -> None:
        """Show the losses."""
        if self.trainer.is_global_zero and self.model.domain_losses is not None:
            for name, loss in zip(self.datamodule.domains, self.model.domain_losses.tolist(), strict=True):
                print(f"{name:<24} {loss:.4f} nats per token")

    def _check(self, *, fitting: bool) -> None:
        settings = self.config_init[self.subcommand]
        if settings.get("ckpt_path") == "last":
            settings["ckpt_path"] = latest_checkpoint(self.trainer.default_root_dir)
        check_run(
            self.model, self.datamodule, self.trainer, checkpoint=settings.get("ckpt_path"), fitting=fitting
        )


def usage() -> str:
    """Every command with one line."""
    lines = {**_TRAINING, **{name: line for name, (_, line) in _COMMANDS.items()}}
    return "\n".join(
        [
            "usage: shear-lit COMMAND [--config FILE.yaml] [--KEY VALUE ...]",
            "",
            "Prune a pretrained LLaMA-family model to an exact smaller shape, then continue pre-training it.",
            "",
            "commands:",
            *(f"  {name:<10} {line}" for name, line in lines.items()),
            "",
            "`shear-lit COMMAND --help` shows the keys of one command.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's mistake ends it with its message and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # The docstring under a field is its line of --help.
    # Reading the settings' sources for their docstrings takes a second: only where they are shown.
    shows_docstrings = any(
        word in argument for argument in arguments for word in ("-h", "help", "print_config")
    )
    set_parsing_settings(docstring_parse_attribute_docstrings=shows_docstrings)
    logging.basicConfig(
        level=logging.WARNING if getattr(rank_zero_only, "rank", 0) else logging.INFO, format="%(message)s"
    )
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    _quieten()
    try:
        _run(arguments)
    except UsageError as error:
        _leave(2, refusal(arguments[0], error), error)
    except LossError as error:
        _leave(1, f"error: {error}", error)
    except ValueError as error:
        parser = TrainingParser if arguments[0] in _TRAINING else CommandParser
        message = own_message(error, parser.target_key)
        if message is None:
            raise
        _leave(getattr(error, "exit_code", 2), f"error: {message}", error)


def _leave(code: int, message: str, error: Exception) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code) from error


def _quieten() -> None:
    """Leave out what libraries say that is neither about the run nor for the person who started it."""
    for name in _CHATTY:
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(_UNSAID))
    logging.getLogger("huggingface_hub").setLevel(logging.WARNING)  # it tells of every file that it wrote
    # LightningCLI warns of arguments that are not those of the process: they are those of ``main``.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter", category=UserWarning)
    # Lightning reads a leaf the way torch before 2.14 wanted it, at every batch.
    warnings.filterwarnings(
        "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning
    )


def _run(arguments: list[str]) -> None:
    name = arguments[0]
    if name in _TRAINING:
        ShearingCLI(arguments)
    elif name in _COMMANDS:
        arguments = _flags(arguments)
        result = auto_cli(
            {name: _chosen(name, arguments[1:])},
            args=arguments,
            as_positional=name in _POSITIONAL,
            prog="shear-lit",
            parser_class=CommandParser,
        )
        if result is not None:
            print(result)
        if getattr(result, "exit_code", 0):  # the command did its work, and found something wrong
            raise SystemExit(result.exit_code)
    else:
        print(usage(), file=sys.stderr)
        print(f"error: {name!r} is no command. Use one of those above.", file=sys.stderr)
        raise SystemExit(2)


def _chosen(name: str, flags: list[str]) -> Callable[..., Any] | dict[str, Any]:
    given = {re.split(r"[.=]", flag, maxsplit=1)[0] for flag in flags}
    return next((c for (of, flag), c in _INSTEAD.items() if of == name and flag in given), _COMMANDS[name][0])


def _flags(arguments: list[str]) -> list[str]:
    """Let ``--fast`` alone mean ``--fast=true``, ``--from-mds`` what ``--from_mds`` does, and ``gates A B`` compare."""
    if arguments[0] in _PLACES:
        places = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments[1:]))
        keys = _PLACES[arguments[0]][: len(places)]  # the parser refuses what is given beyond
        named = [f"--{key}={place}" for key, place in zip(keys, places[: len(keys)], strict=True)]
        return [arguments[0], *named, *arguments[1 + len(named) :]]
    arguments = [re.sub(r"^--from-mds(?=$|[.=])", "--from_mds", word) for word in arguments]
    alone = {
        index
        for index, word in enumerate(arguments)
        if word == "--fast" and (index + 1 == len(arguments) or arguments[index + 1].startswith("-"))
    }
    return ["--fast=true" if index in alone else word for index, word in enumerate(arguments)]
