"""``shear-lit rank``: order the units of a model without training it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from shear_lit.commands.evaluate import Device, chosen_device
from shear_lit.data.boundaries import DocumentBoundary, boundary_of, model_inputs
from shear_lit.data.loader import ValidationLoader
from shear_lit.data.manifest import Manifest
from shear_lit.data.preparation.prepare import tokenizer_fingerprint_of
from shear_lit.data.remote import REMOTE, RemoteSettings, read_prepared
from shear_lit.data.store import SequenceStore
from shear_lit.models.directories import write_file
from shear_lit.models.family import Family
from shear_lit.models.huggingface import CONFIG, read_config, read_model, source_fingerprint
from shear_lit.models.registry import family_of
from shear_lit.models.writing import WEIGHT_SUFFIXES
from shear_lit.pruning.activations import watch_activations
from shear_lit.pruning.attach import attach
from shear_lit.pruning.gates import keyed_uniform
from shear_lit.pruning.importance import Importance, gate_gradients
from shear_lit.pruning.magnitude import weight_magnitude
from shear_lit.pruning.scores import Origin, ScoresError, scores_file
from shear_lit.theory.shape import Axis

Criterion = Literal["fisher", "taylor", "activation", "weight", "depth", "random"]
_WITHOUT_DATA = ("weight", "random")


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


def rank(
    source: str,
    out: str,
    criterion: Criterion = "fisher",
    data: str | None = None,
    split: Literal["prune", "pretrain"] = "prune",
    sequences_per_domain: int = 8,
    micro_batch: int = 4,
    device: Device = "auto",
    seed: int = 17,
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
) -> Ranking:
    """Order the units of a model by importance, on a little training text, and write the scores.

    Args:
        source: Local Hugging Face directory or hub name of the model.
        out: File to write (scores.safetensors); it must be new, and not beside a model.
        criterion: `fisher`: mean squared gradients of gates; `taylor`: the size of their mean; `activation`: sizes of
            activations, and block influence for layers; `weight`: sizes of weights; `depth`: contiguous layers by
            what they change, and nothing else; `random`: by lot.
        data: Directory that `shear-lit prepare` wrote, or its address; `weight` and `random` need none.
        split: Documents to measure on; never those that a run validates on.
        sequences_per_domain: Sequences of each domain to measure on.
        micro_batch: Sequences of one pass.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        seed: Seed of the lot.
        cross_document_attention: Whether a token may attend to earlier documents; as `data` of the run has it.
        remote: How data in remote storage is read.
    """
    file = Path(out).expanduser()
    if file.exists():
        raise ScoresError(
            f"out={out!r} exists: scores are not overwritten. Choose another file, or remove it."
        )
    if (file.parent / CONFIG).is_file() and file.suffix in WEIGHT_SUFFIXES:
        raise ScoresError(
            f"out={out!r} lies in the directory of a model, and programs take every {file.suffix} there for weights. "
            f"Choose another directory."
        )
    family = family_of(read_config(source))
    batches = None
    if (data is None) != (criterion in _WITHOUT_DATA):
        raise ScoresError(
            f"data={data!r}: criterion={criterion} is measured on text. Name a directory of `shear-lit prepare`."
            if data is None
            else f"data={data!r} has no effect: criterion={criterion} needs no text. Remove it."
        )
    if data is not None:
        manifest = read_prepared(data, remote)
        manifest.check_tokenizer(tokenizer_fingerprint_of(source), source)
        batches = _Batches(
            SequenceStore(data, split, manifest, remote),
            manifest,
            sequences_per_domain,
            micro_batch,
            None if cross_document_attention else boundary_of(manifest, data),
        )
    importance = _measured(source, family, criterion, batches, torch.device(chosen_device(device)), seed)
    origin = Origin(
        source=source,
        source_fingerprint=source_fingerprint(source),
        source_shape=family.shape,
        criterion=criterion,
        data_fingerprint=None if batches is None else batches.manifest.fingerprint,
        sequences=None if batches is None else batches.count,
        tokens=None if batches is None else batches.count * batches.manifest.sequence_length,
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
    """The first sequences of every domain of a split, and how many there were."""

    def __init__(
        self,
        store: SequenceStore,
        manifest: Manifest,
        sequences: int,
        micro_batch: int,
        boundary: DocumentBoundary | None,
    ) -> None:
        self.manifest, self.count = manifest, 0
        self._loader = ValidationLoader(
            store, sequences=sequences, micro_batch=micro_batch, boundary=boundary
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._loader:
            # What only fills a batch up is no text of its own.
            real = batch["domain"] >= 0
            if real.any():
                self.count += int(real.sum())
                yield {name: part[real] for name, part in model_inputs(batch).items()}


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
        lambda inputs: model(**inputs, use_cache=False).loss,
        on_device,
        source=family.shape,
        axes=axes,
        device=device,
    )
    attached.detach()
    if criterion == "taylor":
        return {axis: (sums.signed / count).abs().cpu() for axis, sums in found.items()}
    return {axis: (sums.squared / count).cpu() for axis, sums in found.items()}
