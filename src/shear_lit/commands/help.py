"""The help of a run on two screens: the keys of the model and the data, and the Trainer's keys that matter here."""

import re
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import docstring_parser
from jsonargparse import ArgumentParser
from jsonargparse._required import restore_suppressed_required

from shear_lit.commands.parsing import actions_of, fields_of, hint_of, settings_in

_RUN = {
    "config": "YAML file of keys; several may follow each other",
    "ckpt_path": "Checkpoint to go on from; `auto`: the newest, or begin; `last`",
    "seed_everything": "Seed of what is not seeded by model.seed and data.seed",
}
_TRAINER = {
    "trainer.default_root_dir": "Directory of the run: its log, checkpoints and gates; it must be new or empty",
    "trainer.max_steps": "Optimizer steps; a multiple of data.mixture.update_every_steps",
    "trainer.accelerator": "auto, cpu, gpu, ...",
    "trainer.devices": "Processes on each machine: a number, or auto",
    "trainer.num_nodes": "Machines",
    "trainer.strategy": "auto, ddp, or fsdp2 for models that one device cannot hold",
    "trainer.precision": "32-true, or bf16-mixed",
    "trainer.gradient_clip_val": "Largest norm of the gradients of all groups together",
    "trainer.log_every_n_steps": "Optimizer steps between two reports",
    "trainer.logger": "Loggers of Lightning's by class_path, instead of TensorBoard and metrics.csv",
    "trainer.callbacks": "Callbacks of Lightning's by class_path, besides those of the run",
}
"""What is said of Lightning's keys; their own help is longer than both screens."""
_SELDOM = {f"model.optimizer.{name}" for name in ("betas", "epsilon", "final_fraction", "weight_decay")}
_SELDOM |= {f"model.lora.{name}" for name in ("rank", "alpha", "dropout", "targets")}
"""Keys that stand in the full help alone."""
_ENDS = re.compile(r"(?<=[a-z0-9)`])\.\s")
_KEY_WIDTH, _DEFAULT_WIDTH = 42, 13


class _Line(NamedTuple):
    key: str
    default: str
    words: str


def short_help(parser: ArgumentParser, name: str) -> str:
    """The keys of ``fit`` or ``validate``, each on one line with its default."""
    width = min(120, max(80, shutil.get_terminal_size((120, 24)).columns))
    with restore_suppressed_required():
        found = {line.key: line for line in _lines(parser)}
    lines = [
        f"usage: shear-lit {name} --config FILE.yaml [--KEY VALUE ...]",
        "YAML files and flags, the last one wins; a default follows its key. --help_all: every key, in full; "
        "--help_environment",
    ]
    run = {
        key: line.words
        for key, line in found.items()
        if key.startswith(("training.", "checkpoint.", "evaluation."))
    }
    said = {
        "the run": _RUN | run,
        **{title: {} for title in ("model", "data")},
        "trainer": _TRAINER,
    }
    for title, words in said.items():
        chosen = words or {
            key: line.words
            for key, line in found.items()
            if key.startswith(f"{title}.") and key not in _SELDOM
        }
        lines += [f"{title}:", *(_shown(found[key]._replace(words=chosen[key]), width) for key in chosen)]
    return "\n".join(lines) + "\n"


def _lines(parser: ArgumentParser) -> Iterator[_Line]:
    for key, action in actions_of(parser).items():
        if key.endswith(".help") or key == "print_config":
            continue
        yield _Line(key, _default(action.default, required=action.required), action.help or "")
        for settings in settings_in(hint_of(action)):
            yield from _lines_below(key, settings)


def _lines_below(key: str, settings: type) -> Iterator[_Line]:
    """The keys of a class of settings that may be absent as a whole."""
    words = {each.arg_name: each.description for each in docstring_parser.parse_from_object(settings).params}
    for name, hint in fields_of(settings).items():
        default = getattr(settings, name, None)  # where it has one: fields without are absent from the class
        below = settings_in(hint)
        if not below:
            yield _Line(f"{key}.{name}", _default(default, required=False), words.get(name) or "")
        for inner in below:
            yield from _lines_below(f"{key}.{name}", inner)


def _default(value: Any, *, required: bool) -> str:
    if required:
        return "(needed)"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    words = str(value) if isinstance(value, str | int | float) else ""
    return words if len(words) < _DEFAULT_WIDTH else ""


def _shown(line: _Line, width: int) -> str:
    sentence = _ENDS.split(" ".join(line.words.split()), maxsplit=1)[0]
    head = f"  --{line.key:<{_KEY_WIDTH}} {line.default:<{_DEFAULT_WIDTH}} "
    room = width - len(head)
    return head + (sentence if len(sentence) <= room else f"{sentence[: room - 1].rstrip()}…")
