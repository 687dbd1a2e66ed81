"""The repair of a cut that ``export`` writes: its text is looked at before weights are read, a page tells of it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shear_lit.commands.measuring import chosen_device
from shear_lit.data.errors import DataError
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.evaluation.repair_text import RepairText, open_repair_text
from shear_lit.models.choices import Device, RepairParts
from shear_lit.models.huggingface import build_model
from shear_lit.models.memory import free_bytes
from shear_lit.models.registry import family_of
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.constraints import GateValues
from shear_lit.pruning.repair import repair
from shear_lit.pruning.repair.memory import memory_of_repair
from shear_lit.reporting.model_facts import RepairFacts
from shear_lit.reporting.repair_page import repair_page
from shear_lit.theory.shape import ModelShape

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RepairRequest:
    """What a user says of the repair of a cut."""

    data: str
    """Directory of prepared data, or its address."""
    tokens: int
    """Tokens of the data to repair on, at least; whole sequences of every domain."""
    generated_fraction: float
    """Tokens beside them that the source generates, as a fraction of them."""
    split: str
    """Documents to repair on."""
    parts: RepairParts
    """What is refitted."""
    device: Device
    """Where one block at a time is."""
    cross_document_attention: bool
    """Whether a token may attend to earlier documents."""
    remote: RemoteSettings
    """How data in remote storage is read."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A repair whose text fits the model."""

    text: RepairText
    fingerprint: str
    """That of the prepared data."""
    parts: RepairParts
    device: torch.device

    def of(
        self,
        tensors: Mapping[str, Tensor],
        config: Any,
        source: Any,
        values: GateValues,
    ) -> tuple[dict[str, Tensor], RepairFacts, str]:
        """The tensors of a cut of ``source`` at ``values``, repaired; the facts, and the page."""
        family = family_of(source.config)
        carved = build_model(
            config, {name: part.float() for name, part in tensors.items()}, dtype=torch.float32
        )
        found = repair(
            source.eval(),
            carved.eval(),
            family,
            family_of(config),
            kept_units({axis: gates.detach().cpu() for axis, gates in values.items()}, family.shape),
            self.text.passages(source),
            parts=self.parts,
            device=self.device,
        )
        facts = RepairFacts(
            tokens=self.text.data.tokens,
            sequences=self.text.data.sequences,
            generated_tokens=self.text.generated_tokens,
            data_fingerprint=self.fingerprint,
            parts=self.parts,
            weights=len(found),
            refitted=sum(item.refitted for item in found),
        )
        return (
            {name: tensor.detach() for name, tensor in carved.named_parameters()},
            facts,
            repair_page(found, facts),
        )


def open_repair(request: RepairRequest, source: str, config: Any, target: ModelShape) -> Repair:
    """Look at the text of a repair; of the source, only config and tokenizer are read.

    Raises:
        SourceError, TextError, DataError: as ``open_calibration_text``; or the text is too little, or memory is.
    """
    device = chosen_device(request.device)
    text, manifest = open_repair_text(
        request.data,
        source,
        family_of(config),
        target,
        split=request.split,
        sizes=request,
        device=device,
        cross_document_attention=request.cross_document_attention,
        remote=request.remote,
    )
    _check_memory(config, target, text, manifest.sequence_length, device)
    return Repair(text=text, fingerprint=manifest.fingerprint, parts=request.parts, device=device)


def _check_memory(
    config: Any, target: ModelShape, text: RepairText, length: int, device: torch.device
) -> None:
    """Say what a repair takes, and refuse one that takes more than there is."""
    tokens = text.data.planned * length + text.generated_tokens
    needed = memory_of_repair(config, target, tokens=tokens, on_cpu=device.type != "cuda")
    places = {torch.device("cpu"): needed.host, device: needed.device or needed.host}
    words = " and ".join(f"{size / 1e9:.1f} GB on {place}" for place, size in places.items())
    _log.info("repairing on %s tokens takes about %s", f"{tokens:,}", words)
    for place, size in places.items():
        free = free_bytes(place)
        if free is not None and size > free:
            raise DataError(
                f"{tokens:,} tokens, with those that the source generates, take about {size / 1e9:.1f} GB on {place}, "
                f"where {free / 1e9:.1f} GB are free. Use fewer, or a machine with more memory.",
                key="repair_tokens",
            )
