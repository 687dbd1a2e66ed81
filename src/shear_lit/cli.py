"""The command line: finds the command, runs it, and ends with a line and an exit code. Nothing heavy is imported."""

import itertools
import json
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress

from shear_lit.commands.failures import DEBUG, INTERRUPTED, UsageError, failure_of
from shear_lit.commands.table import COMMANDS, Command
from shear_lit.progress import QUIET, LineHandler, is_first, is_quiet
from shear_lit.training.signals import SIGNALS

QUIET_FLAG = "--quiet"
"""Of every command: warnings, errors and the result alone."""
_UNSAID = (
    "💡 Tip",  # of services that have nothing to do with a run
    "TPU available",
    "`weights_only` was not set",  # said at every checkpoint: whole states are saved, as asked for
    "`Trainer.fit` stopped",
    "Model weights successfully saved",
)
"""How messages of libraries begin that tell a person nothing about the run."""
_CHATTY = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


def usage() -> str:
    """Every command with one line."""
    return "\n".join(
        [
            "usage: shear-lit COMMAND [--config FILE.yaml] [--KEY VALUE ...]",
            "",
            "Prune a pretrained LLaMA-family model to an exact smaller shape, then continue pre-training it.",
            "",
            "commands:",
            *(f"  {name:<10} {command.line}" for name, command in COMMANDS.items()),
            "",
            "`shear-lit COMMAND --help` shows the keys of one command. With --quiet, a command says nothing but",
            "warnings, errors and its result; with NO_COLOR set, nothing has colours.",
        ]
    )


def first_run() -> str:
    """The path of a first run, in ten lines."""
    return "\n".join(
        [
            "A first run, from text to a smaller model (`shear-lit --help` lists all commands):",
            "",
            "  shear-lit demo                                        all of it, small, with nothing to configure",
            "  shear-lit prepare --config TEXT.yaml                  text to packed tokens (configs/data/)",
            "  shear-lit reference measure --model M --data D ...    losses that the mixture of domains aims at",
            "  shear-lit fit --config PRUNE.yaml                     prune (configs/prune/); `look RUN` shows it",
            "  shear-lit export --checkpoint C --output PRUNED       cut it: an ordinary Hugging Face directory",
            "  shear-lit fit --config PRETRAIN.yaml                  continue its training (configs/pretrain/)",
            "  shear-lit compare M PRUNED --data D                   what it is worth, beside its source",
            "  shear-lit chat PRUNED                                 talk to it, once it is tuned (configs/tune/)",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; whatever ends it becomes a line and an exit code (``commands.failures``)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if QUIET_FLAG in arguments:
        arguments.remove(QUIET_FLAG)
        os.environ[QUIET] = "1"
    if not arguments:
        print(first_run())
        return
    name, command = arguments[0], COMMANDS.get(arguments[0])
    if command is not None:
        command = _chosen(command, arguments[1:])
    try:
        try:
            _dispatch(name, command, arguments[1:])
        finally:
            sys.stdout.flush()  # a reader that is gone is noticed here, also after help
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning has shut down a run, and ends with 1
            print(failure_of(error.__context__, name, command).line, file=sys.stderr)
            raise SystemExit(INTERRUPTED) from error
        raise
    except BaseException as error:  # some libraries raise what is no Exception
        if os.environ.get(DEBUG, "") not in ("", "0"):
            traceback.print_exception(error)
        code, line = failure_of(error, name, command)
        if line:
            print(line, file=sys.stderr)
        raise SystemExit(code) from error


def _dispatch(name: str, command: Command | None, words: list[str]) -> None:
    if name in ("-h", "--help", "help"):
        print(usage())
    elif command is None:
        print(usage(), file=sys.stderr)
        raise UsageError(f"{name!r} is no command. {_nearest(name)}Use one of those above.")
    else:
        _quieten()
        _run(name, command, _flags(command, _after_action(name, command, words)))


def _run(name: str, command: Command, flags: list[str]) -> None:
    from shear_lit.commands.parsing import run_function, set_up_parsing  # jsonargparse: 0.1 s

    set_up_parsing(flags)
    with SIGNALS.heard() if name == "fit" else nullcontext():
        result = (
            command.load()(name, command, flags) if command.trains else run_function(name, command, flags)
        )
    if result is not None and str(result):
        drawn = getattr(result, "on_terminal", None) if sys.stdout.isatty() else None
        print(result if drawn is None else drawn())
    if getattr(result, "exit_code", 0):  # the command found something wrong, or was stopped
        raise SystemExit(result.exit_code)


def _after_action(name: str, command: Command, words: list[str]) -> list[str]:
    """The words behind the one that belongs to the command's name, which only help may lack."""
    if not command.action or words[:1] in (["--help"], ["-h"]):
        return words
    if words[:1] != [command.action]:
        found = f"{words[0]!r} is none of its words" if words else "a word is missing"
        uses = " or ".join(f"`shear-lit {name} {word}`" for word in (command.action, *command.actions))
        raise UsageError(f"{name}: {found}. Use {uses}.")
    return words[1:]


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    alike = get_close_matches(name, COMMANDS, n=1)
    return f"Did you mean {alike[0]}? " if alike else ""


def _quieten() -> None:
    """Log plainly, without what libraries say that is neither about the run nor for the person who started it."""
    threading.excepthook = _tell_of_thread
    # Of processes that Lightning starts, the first one speaks for all.
    level = logging.INFO if is_first() and not is_quiet() else logging.WARNING
    handler = LineHandler()
    handler.addFilter(_is_said)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    if is_quiet() or not sys.stderr.isatty():
        _without_bars()
    for name in _CHATTY:
        logging.getLogger(name).addFilter(_is_said)
    logging.getLogger("huggingface_hub").setLevel(logging.WARNING)  # it tells of every file that it wrote
    # LightningCLI warns of arguments that are not those of the process: they are those of ``main``.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter", category=UserWarning)
    # Losses of a validation are the same on all ranks before they are handed to callbacks.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(", category=UserWarning)
    # Lightning reads a leaf the way torch before 2.14 wanted it, at every batch.
    warnings.filterwarnings(
        "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning
    )


def _is_said(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_UNSAID)


def _without_bars() -> None:
    """Keep the bars of libraries out of logs: they are known by a variable, or have been imported already."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    if "huggingface_hub" in sys.modules:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()


def _tell_of_thread(failure: threading.ExceptHookArgs) -> None:
    """Say what ended a thread; TensorBoard's is asked by the main one, which says it again in one line."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failure)


def _chosen(command: Command, flags: list[str]) -> Command:
    """The command itself, or what the word behind its name or a key, given or in a file, makes of it."""
    if flags and flags[0] in command.actions:
        return command.actions[flags[0]]
    if not command.variants:
        return command
    given = {re.split(r"[.=]", flag, maxsplit=1)[0].replace("-", "_").lstrip("_") for flag in flags}
    given |= _keys_of_files(flags)
    return next((variant for key, variant in command.variants.items() if key in given), command)


def _keys_of_files(flags: Sequence[str]) -> set[str]:
    """The keys that files of ``--config`` set; of one that cannot be read, the command says what is wrong."""
    from shear_lit.disk.names import expanded
    from shear_lit.disk.reading import read_yaml

    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--config=")]
    named += [value for flag, value in itertools.pairwise(flags) if flag == "--config"]
    found: set[str] = set()
    for name in named:
        with suppress(OSError, ValueError):
            content = read_yaml(expanded(name))
            entries = content.items() if isinstance(content, dict) else ()
            found |= {str(key) for key, value in entries if value is not None}
    return found


def _flags(command: Command, flags: list[str]) -> list[str]:
    """Give values without a key their key, ``--fast`` alone the value true, and ``--from-mds`` its underscore."""
    if command.several:
        values = list(itertools.takewhile(lambda word: not word.startswith("-"), flags))
        flags = [*([f"--{command.several}={json.dumps(values)}"] if values else []), *flags[len(values) :]]
    places = list(itertools.takewhile(lambda word: not word.startswith("-"), flags))[: len(command.places)]
    named = [f"--{key}={value}" for key, value in zip(command.places[: len(places)], places, strict=True)]
    flags = [*named, *flags[len(places) :]]
    return [
        f"{word}=true"
        if word.removeprefix("--") in command.switches and _stands_alone(flags, index)
        else re.sub(r"^--[A-Za-z0-9_-]+", lambda key: "--" + key[0][2:].replace("-", "_"), word)
        for index, word in enumerate(flags)
    ]


def _stands_alone(flags: list[str], index: int) -> bool:
    return index + 1 == len(flags) or flags[index + 1].startswith("-")
