"""How an exported model can be made again: what was typed, what computed, and the config of its run."""

import logging
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shear_lit.commands.repairing import RepairRequest
from shear_lit.commands.run_reading import read_history
from shear_lit.reporting.model_facts import Reproduction
from shear_lit.reporting.run_page.facts import RunFacts, Series
from shear_lit.training.checkpoints import CheckpointFacts
from shear_lit.training.run_files import CONFIG, METRICS
from shear_lit.training.versions import commit_of_code, package_versions

RUN_CONFIG = "fit.yaml"
"""The config of the run, beside the model."""
_CHECKPOINTS = "checkpoints"
_SECTIONS = ("seed_everything", "trainer", "model", "data", "training", "checkpoint")
_LEFT_OUT = ("logger", "callbacks", "plugins", "profiler", "default_root_dir")
"""Keys of ``trainer`` that change no number; what belongs to a service of the user's, such as a key of it, may be
in them."""
_VALIDATION, _TRAINING = "loss/validation/", "loss/language"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Making:
    """What a run, or a cut without one, says of how it was made."""

    reproduction: Reproduction
    files: Mapping[str, str] = field(default_factory=dict)
    """What has to lie beside the model for it, by name."""
    series: Mapping[str, Series] = field(default_factory=dict)
    """Losses of the run up to the checkpoint, by name."""
    first_losses: Mapping[str, float] = field(default_factory=dict)
    """Validation losses before the first step, by domain."""
    references: Mapping[str, float] = field(default_factory=dict)
    """What validation losses should reach, by domain."""


def options_of_export(dtype: str, repair: RepairRequest | None) -> dict[str, Any]:
    """The keys of ``export`` that say how a cut is written, with their values."""
    options: dict[str, Any] = {} if dtype == "source" else {"dtype": dtype}
    if repair is not None:
        options |= {
            "repair": repair.data,
            "repair_tokens": repair.tokens,
            "repair_generated_fraction": repair.generated_fraction,
            "repair_split": repair.split,
            "repair_parts": repair.parts,
            **({} if repair.cross_document_attention else {"cross_document_attention": "false"}),
        }
    return options


def making_of_cut(gates: str, options: Mapping[str, Any], data_fingerprint: str | None) -> Making:
    """Of a source that was cut without training, at the gates that lie beside the model."""
    return Making(
        reproduction=Reproduction(
            commands=(_line("export", {"gates": gates, "output": "MODEL", **options}),),
            versions=_versions(package_versions(), platform.python_version()),
            commit=commit_of_code(),
            data_fingerprint=data_fingerprint,
        )
    )


def making_of_run(checkpoint: Path, facts: CheckpointFacts, options: Mapping[str, Any]) -> Making:
    """Of a run, as far as the checkpoint lies in the run's directory."""
    written = {"checkpoint": f"RUN/{_CHECKPOINTS}/{checkpoint.name}", "output": "MODEL", **options}
    export = _line("export", written)
    run = _run_of(checkpoint, facts)
    if run is None:
        return Making(
            reproduction=Reproduction(
                commands=(
                    "# the run that the checkpoint is of was not at hand when this was written",
                    export,
                ),
                versions=_versions(package_versions(), platform.python_version()),
                commit=commit_of_code(),
            )
        )
    domains = list(facts.losses)
    references = {name: run.reference(name) for name in domains}
    fit = _line("fit", {"config": RUN_CONFIG, "trainer.default_root_dir": "RUN"})
    known = run.provenance
    return Making(
        reproduction=Reproduction(
            commands=(fit, export),
            versions=_versions(known.get("packages"), known.get("python")),
            commit=_text(known.get("commit")),
            data_fingerprint=_text(known.get("data")),
            processes=known["world_size"] if isinstance(known.get("world_size"), int) else None,
            device=_text(known.get("device")),
        ),
        files={RUN_CONFIG: run_config(run.config)} if run.config else {},
        series={
            name: tuple(point for point in points if point[0] <= facts.step)
            for name, points in run.series.items()
            if name == _TRAINING or name.startswith(_VALIDATION)
        },
        first_losses={
            name: points[0][1]
            for name in domains
            if (points := run.series.get(_VALIDATION + name)) and points[0][0] == 0 < facts.step
        },
        references={name: loss for name, loss in references.items() if loss is not None},
    )


def run_config(config: Mapping[str, Any]) -> str:
    """The resolved config of a run without what changes no number of it."""
    kept = {name: config[name] for name in _SECTIONS if name in config}
    if isinstance(kept.get("trainer"), Mapping):
        kept["trainer"] = {name: value for name, value in kept["trainer"].items() if name not in _LEFT_OUT}
    said = (
        "# The config of the run that this model was exported from; set paths to where things are for you.\n"
    )
    return said + yaml.safe_dump(kept, sort_keys=False)


def _run_of(checkpoint: Path, facts: CheckpointFacts) -> RunFacts | None:
    """The run whose directory a checkpoint lies in; none where it lies elsewhere, or in that of another run."""
    folder = checkpoint.absolute().parent
    place = folder.parent
    if folder.name != _CHECKPOINTS or not any((place / name).is_file() for name in (CONFIG, METRICS)):
        return None
    run = read_history(place)
    source = run.provenance.get("source")
    found = source.get("fingerprint") if isinstance(source, Mapping) else None
    if found is not None and found != facts.source_fingerprint:
        _log.warning(
            "WARNING: %s is the directory of a run from another source: the card says nothing of it.", place
        )
        return None
    return run


def _versions(packages: Any, python: Any) -> dict[str, str]:
    named = packages if isinstance(packages, Mapping) else {}
    found = {"Python": python, **named}
    return {str(name): str(version) for name, version in found.items() if version is not None}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _line(command: str, options: Mapping[str, Any]) -> str:
    words = (word for key, value in options.items() for word in (f"--{key}", str(value)))
    return shlex.join(["shear-lit", command, *words])
