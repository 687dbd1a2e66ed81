"""Every command: where it lies, its line of help, and its words. Nothing of a command is imported before it runs."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command."""

    place: str
    """Module and function that run it."""
    line: str = ""
    """What it does, for the list of all commands."""
    action: str = ""
    """A word that follows its name."""
    places: tuple[str, ...] = ()
    """Keys whose values may also be given without them, before any flag."""
    several: str = ""
    """Key that takes all values that are given without one."""
    switches: tuple[str, ...] = ()
    """Keys that mean true where they stand alone."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What it calls a setting that checks know by another key; with a dot at the end: what its keys begin with."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Keys that had other names in earlier versions, and their names now."""
    variants: Mapping[str, "Command"] = field(default_factory=dict)
    """What it becomes when a key is given: another command, with keys of its own."""
    actions: Mapping[str, "Command"] = field(default_factory=dict)
    """What it becomes when another word follows its name."""
    trains: bool = False
    """Whether it is built by Lightning's command line, around a Trainer."""

    def load(self) -> Callable[..., Any]:
        """The function that runs it; what it needs is imported now."""
        module, _, name = self.place.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def word(self, key: str) -> str:
        """What its user calls the setting that checks know by ``key``."""
        if key in self.words:
            return self.words[key]
        for theirs, ours in self.words.items():
            if theirs.endswith(".") and key.startswith(theirs):
                return ours + key.removeprefix(theirs)
        return key


_MEASURED = {
    "data.directory": "data",
    "data.remote.": "remote.",
    "data.validation_sequences": "sequences_per_domain",
    "data.validation_micro_batch": "micro_batch",
    "data.micro_batch": "micro_batch",
    "data.cross_document_attention": "cross_document_attention",
}
"""The words of the commands that measure something on prepared data."""
_RUN = {
    "checkpoint": "ckpt_path",
    "target": "model.pruning.target",
    "target.": "model.pruning.target.",
    "gates": "model.pruning.initial_scores",
}

COMMANDS: dict[str, Command] = {
    "fit": Command(
        place="shear_lit.commands.fit:run_training",
        line="prune a model jointly with its weights, or continue pre-training one",
        words=_RUN,
        trains=True,
    ),
    "validate": Command(
        place="shear_lit.commands.fit:run_training",
        line="domain losses of a model or a checkpoint",
        words=_RUN,
        trains=True,
    ),
    "prepare": Command(
        place="shear_lit.commands.prepare:prepare",
        line="raw text to tokenised, packed data per domain and split",
        variants={
            "check": Command(
                place="shear_lit.commands.check:check_prepared",
                words={"data.directory": "check", "data.remote.": "remote."},
            ),
            "bounds": Command(
                place="shear_lit.commands.bounds:write_bounds", words={"data.directory": "bounds"}
            ),
            "from_mds": Command(place="shear_lit.commands.from_mds:import_mds"),
            "format": Command(place="shear_lit.commands.prepare_chat:prepare_chat"),
        },
    ),
    "data": Command(
        place="shear_lit.commands.data:data",
        line="look at prepared data: its manifest, its text, what a run would draw from it",
        places=("directory",),
        words={
            "data.directory": "directory",
            "data.remote.": "remote.",
            "data.mixture.proportions": "simulate",
            "data.global_batch": "global_batch",
        },
    ),
    "reference": Command(
        place="shear_lit.commands.reference:measure",
        action="measure",
        line="reference losses for the mixture: measured on a model, or fitted to those of several sizes",
        words={"model.source": "model", **_MEASURED},
        renamed={"source": "model"},
        actions={"fit": Command(place="shear_lit.commands.reference_fit:fit", action="fit")},
    ),
    "teach": Command(
        place="shear_lit.commands.teach:teach",
        line="what a teacher says of prepared data, computed once for runs that learn from it",
        words={"model.source": "model", **_MEASURED},
    ),
    "export": Command(
        place="shear_lit.commands.export:export",
        line="checkpoint, or scores, to a verified Hugging Face directory of exactly a shape",
        words={"model.source": "source"},
        switches=("push_over",),
    ),
    "evaluate": Command(
        place="shear_lit.commands.evaluate:evaluate",
        line="domain losses of a Hugging Face directory; --suite: downstream tasks",
        words={"model.source": "model", **_MEASURED},
        renamed={"source": "model"},
        variants={
            "suite": Command(
                place="shear_lit.commands.evaluate_suite:evaluate_suite",
                words={"model.source": "model"},
                renamed={"source": "model"},
                switches=("dry_run",),
            )
        },
    ),
    "compare": Command(
        place="shear_lit.commands.compare:compare",
        line="several models in one table: sizes, speeds, losses, tasks, cost, and how sure their differences are",
        several="models",
        words={"model.source": "models", **_MEASURED},
        switches=("cards",),
    ),
    "chat": Command(
        place="shear_lit.commands.chat.command:chat",
        line="talk to one or several tuned models; --serve: have a server answer for one",
        several="models",
        switches=("serve",),
        words={"model.source": "models"},
    ),
    "verify": Command(
        place="shear_lit.commands.verify:verify",
        line="load a Hugging Face directory in the clients people use, and compare what they compute",
        places=("directory",),
        words={"model.source": "directory"},
    ),
    "rank": Command(
        place="shear_lit.commands.rank:rank",
        line="order a model's units by importance, without training",
        words={"model.source": "source", **_MEASURED},
        renamed={"out": "output", "model": "source"},
    ),
    "mend": Command(
        place="shear_lit.commands.mend:mend",
        line="rewrite an export of an earlier version so that all programs read it",
        places=("directory",),
        words={"model.source": "directory"},
    ),
    "gates": Command(
        place="shear_lit.commands.gates:gates",
        line="which units a cut keeps, and how far two cuts agree",
        places=("directory", "other"),
        words={"gates": "directory"},
    ),
    "report": Command(
        place="shear_lit.commands.report:report",
        line="a run, or two beside each other, as a page to open in a browser",
        places=("run", "other"),
    ),
    "look": Command(
        place="shear_lit.commands.look:look",
        line="the same page in a browser, written anew while the run goes on",
        places=("run", "other"),
    ),
    "demo": Command(
        place="shear_lit.commands.demo.command:demo",
        line="all of it, small, on a real model and real text, with nothing to configure",
        switches=("fast", "chat"),
    ),
    "completion": Command(
        place="shear_lit.commands.completion:completion",
        line="a script that completes commands and keys in a shell",
        places=("shell",),
    ),
}
"""By name, in the order of the list."""
