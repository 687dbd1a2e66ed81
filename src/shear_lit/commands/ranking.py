"""Units of a model in the order of their importance, without training."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from shear_lit.commands.measuring import chosen_device
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.serving.batch import IGNORED, model_inputs
from shear_lit.data.serving.loader import ValidationLoader
from shear_lit.data.serving.remote import RemoteSettings, read_prepared
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.tokenizer import check_made_by
from shear_lit.disk.writing import write_file
from shear_lit.models.choices import Criterion, Device
from shear_lit.models.family import Family
from shear_lit.models.huggingface import read_config, read_model, source_fingerprint
from shear_lit.models.registry import family_of
from shear_lit.models.source_files import pinned
from shear_lit.models.text_check import check_text
from shear_lit.pruning.activations import watch_activations
from shear_lit.pruning.attach import attach
from shear_lit.pruning.gates import keyed_uniform
from shear_lit.pruning.importance import Importance, gate_gradients
from shear_lit.pruning.magnitude import weight_magnitude
from shear_lit.pruning.scores import Origin, scores_file
from shear_lit.theory.shape import Axis


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores that were written."""

    output: str
    """The file."""
    source: str
    """The model."""
    criterion: str
    """What the order means."""
    sequences: int
    """Sequences that it was measured on."""
    axes: tuple[str, ...]
    """The axes whose units are ordered."""

    def __str__(self) -> str:
        measured = f", measured on {self.sequences} sequences" if self.sequences else ""
        return (
            f"units of {self.source} ordered by {self.criterion} ({', '.join(self.axes)}){measured}\n"
            f"written to {self.output}: cut with `shear-lit export --gates`, or start a run from it with "
            f"model.pruning.initial_scores"
        )


def rank_units(
    source: str,
    file: Path,
    criterion: Criterion,
    *,
    data: str | None,
    split: Literal["prune", "pretrain"],
    sequences_per_domain: int,
    micro_batch: int,
    device: Device,
    seed: int,
    cross_document_attention: bool,
    remote: RemoteSettings,
) -> Ranking:
    """Order the units of a model and write the scores; ``rank`` says what the arguments are."""
    where, source = chosen_device(device), pinned(source)
    config = read_config(source)
    family = family_of(config)
    batches = None
    if data is not None:
        manifest = read_prepared(data, remote)
        check_text(
            config,
            model=source,
            text=data,
            vocabulary=manifest.tokenizer.vocabulary,
            sequence_length=manifest.sequence_length,
        )
        check_made_by(manifest, source)
        loader = ValidationLoader(
            SequenceStore(data, split, manifest, remote),
            sequences=sequences_per_domain,
            micro_batch=micro_batch,
            documents_apart=not cross_document_attention,
        )
        batches = _Batches(loader, manifest)
    importance = _measured(source, family, criterion, batches, where, seed)
    origin = Origin(
        source=source,
        source_fingerprint=source_fingerprint(source),
        source_shape=family.shape,
        criterion=criterion,
        data_fingerprint=None if batches is None else batches.manifest.fingerprint,
        sequences=None if batches is None else batches.count,
        tokens=None if batches is None else batches.tokens,
    )
    write_file(file, scores_file(importance, origin))
    return Ranking(
        output=str(file),
        source=source,
        criterion=criterion,
        sequences=0 if batches is None else batches.count,
        axes=tuple(axis.value for axis in importance),
    )


class _Batches:
    """The inputs of a sample of every domain, and how many sequences and tokens of text there were."""

    def __init__(self, loader: ValidationLoader, manifest: Manifest) -> None:
        self.manifest, self.count, self.tokens = manifest, 0, 0
        self._loader = loader

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._loader:
            # What only fills a batch up is no text of its own.
            real = batch["domain"] >= 0
            inputs = {name: part[real] for name, part in model_inputs(batch).items()}
            if not (inputs["labels"][:, 1:] != IGNORED).any():
                continue  # nothing is predicted: there is no loss, and nothing of which a mean could be taken
            self.count += len(inputs["labels"])
            self.tokens += inputs["labels"].numel()
            if "loss_mask" in batch:
                inputs["loss_mask"] = batch["loss_mask"][real]
                self.tokens -= int((~inputs["loss_mask"]).sum())
            yield inputs


def _measured(
    source: str,
    family: Family,
    criterion: Criterion,
    batches: _Batches | None,
    device: torch.device,
    seed: int,
) -> Importance:
    axes = tuple(Axis)
    if criterion == "random":
        return keyed_uniform(family.shape, axes, key=(seed, 0, 0))
    model = read_model(source, dtype=torch.float32)
    if batches is None:
        return weight_magnitude(dict(model.named_parameters()), family)
    model.to(device)  # type: ignore[arg-type]
    model.requires_grad_(requires_grad=False)  # the gates' gradients are all that is asked for
    on_device = ({name: part.to(device) for name, part in inputs.items()} for inputs in batches)
    if criterion in ("activation", "depth"):
        sums = watch_activations(model, family, on_device)
        return sums.importance() if criterion == "activation" else sums.depth_importance()
    attached = attach(model, family)
    found, count = gate_gradients(
        attached,
        lambda inputs: (
            model(
                **{name: part for name, part in inputs.items() if name != "loss_mask"}, use_cache=False
            ).loss
        ),
        on_device,
        source=family.shape,
        axes=axes,
        device=device,
    )
    attached.detach()
    if criterion == "taylor":
        return {axis: (sums.signed / count).abs().cpu() for axis, sums in found.items()}
    return {axis: (sums.squared / count).cpu() for axis, sums in found.items()}
