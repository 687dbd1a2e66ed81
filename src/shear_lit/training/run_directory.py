"""What a run leaves on disk besides its log and its checkpoints: gates, mixtures, and where it came from.

``<run>/gates/step=NNNNNN.safetensors``, ``<run>/mixture.json``, ``<run>/provenance.json``.
"""

import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch

from shear_lit.data.order.mixture_log import (
    MIXTURE_LOG,
    MixtureChange,
    MixtureLog,
    read_mixture_log,
    write_mixture_log,
)
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.disk.names import split_revision
from shear_lit.disk.writing import free_path, write_file
from shear_lit.pruning.artefact import gates_file
from shear_lit.ranking.scores import LEARNED, Origin
from shear_lit.theory.shape import Axis
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_files import GATES_FOLDER, PROVENANCE
from shear_lit.training.versions import commit_of_code, device_name, package_versions

_log = logging.getLogger(__name__)


def write_gates(trainer: L.Trainer, module: ShearingModule, log_alpha: Mapping[Axis, torch.Tensor]) -> None:
    """Write the gates, which are those of ``whole_gates``, readable without shear_lit; one process does."""
    origin = Origin(
        source=module.source,
        source_fingerprint=module.source_fingerprint,
        source_shape=module.family.shape,
        criterion=LEARNED,
        data_fingerprint=module.data.manifest.fingerprint,
    )
    content = gates_file(log_alpha, origin, constraint=module.constraint())
    path = Path(trainer.default_root_dir) / GATES_FOLDER / f"step={trainer.global_step:06d}.safetensors"
    write_file(path, content)


def whole_gates(module: ShearingModule) -> dict[Axis, torch.Tensor]:
    """The gates' parameters on the CPU, gathered where they are sharded; every rank must ask."""
    assert module.gates is not None
    return {axis: _whole(parameter) for axis, parameter in module.gates.log_alpha().items()}


def begin_mixture_log(trainer: L.Trainer, data: DomainData) -> None:
    """Write what the run begins with, or go back to what the checkpoint knew of an earlier log.

    An earlier log that went further keeps lying beside it, numbered.
    """
    path = Path(trainer.default_root_dir) / MIXTURE_LOG
    if not path.exists():
        add_to_mixture_log(trainer, data, None)
        return
    written = read_mixture_log(path, "trainer.default_root_dir")
    moved = max(written.updates[0].step, data.updated_at_step)
    known = written.up_to(moved, trainer.global_step)
    if known != written:
        kept = free_path(path)
        write_mixture_log(kept, written)
        write_mixture_log(path, known)
        _log.info("%s goes back to step %d; what followed is kept in %s", path, known.updates[-1].step, kept)
    if known.present_batch != data.global_batch:
        here = MixtureChange(step=trainer.global_step, weights=data.weights, losses=None)
        change = known.updates[-1] if known.updates[-1].step == here.step else here
        write_mixture_log(path, known.followed_by(replace(change, global_batch=data.global_batch)))


def add_to_mixture_log(
    trainer: L.Trainer,
    data: DomainData,
    losses: Mapping[str, float] | None,
    errors: Mapping[str, float] | None = None,
) -> None:
    """Write the present mixture, and the losses that it followed, whose standard errors are known or not."""
    path = Path(trainer.default_root_dir) / MIXTURE_LOG
    if path.exists():
        log = read_mixture_log(path, "trainer.default_root_dir")
    else:
        length = data.manifest.sequence_length
        log = MixtureLog(domains=data.domains, global_batch=data.global_batch, sequence_length=length)
    compared = losses is not None and data.mixture.follows == "validation"
    references = data.mixture.read_references() if compared else None
    within: tuple[str, ...] = ()
    if losses is not None and references is not None:
        within = references.within_error(losses, errors or {})
    change = MixtureChange(
        step=trainer.global_step,
        weights=data.weights,
        losses=None if losses is None else dict(losses),
        within_error=within,
    )
    write_mixture_log(path, log.followed_by(change))


def write_provenance(trainer: L.Trainer, module: ShearingModule) -> None:
    """Write what the run is made of (versions, commit, data, source), numbered where an earlier start has left one."""
    source, commit = split_revision(module.source)
    facts = {
        "packages": package_versions(),
        "python": platform.python_version(),
        "commit": commit_of_code(),
        "data": module.data.manifest.fingerprint,
        "source": {"name": source, "commit": commit, "fingerprint": module.source_fingerprint},
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "device": device_name(trainer.strategy.root_device),
        "from_step": trainer.global_step,
    }
    write_file(free_path(Path(trainer.default_root_dir) / PROVENANCE), json.dumps(facts, indent=2) + "\n")


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter on the CPU, gathered where it is sharded (on all ranks, which must call this together)."""
    detached = parameter.detach()
    whole = cast(Any, detached).full_tensor() if hasattr(detached, "full_tensor") else detached
    return cast(torch.Tensor, whole).cpu().contiguous()
