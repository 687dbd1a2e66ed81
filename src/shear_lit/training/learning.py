"""What a run learns from besides the text: a teacher that is asked in every step, or what one has said before."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from shear_lit.data.serving.batch import DomainBatch
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.taught.files import TeacherCache
from shear_lit.data.taught.record import read_record
from shear_lit.evaluation.teaching import answers
from shear_lit.models.choices import Attention
from shear_lit.models.family import Family
from shear_lit.models.huggingface import read_config, source_fingerprint
from shear_lit.models.registry import family_of
from shear_lit.theory.losses import Weights
from shear_lit.theory.shape import Axis
from shear_lit.theory.sparse import Sparse
from shear_lit.training.distillation import (
    Distillation,
    LayerTerm,
    StepSums,
    Teacher,
    sums_of_each,
    teacher_dtype,
)
from shear_lit.training.strategies import shard
from shear_lit.training.streams import StreamMatching, counterparts

_log = logging.getLogger(__name__)


class Learning:
    """A teacher, what it has said, or both."""

    def __init__(
        self,
        settings: Distillation,
        data: DomainData,
        *,
        source: str,
        pruning: bool,
        precision: Any,
        attention: Attention,
    ) -> None:
        """Read the weights of the teacher where it will be asked, and look through what it has said."""
        self.settings, self._domains = settings, data.domains
        self.teacher: Teacher | None = None
        self.cache: TeacherCache | None = None
        self._streams: StreamMatching | None = None
        kept = ""
        if settings.cache is not None:
            record = read_record(settings.cache)
            self.cache = TeacherCache(record, data.manifest)
            kept = f"{record.method} of {record.kept}"
            name, fingerprint = record.teacher, record.teacher_fingerprint
            _log.info("learning from what %s has said, in %s (%s)", name, settings.cache, kept)
        if settings.asks_teacher:
            name = settings.teacher_of(source, pruning=pruning)
            fingerprint = source_fingerprint(name)
            self.teacher = Teacher(name, dtype=teacher_dtype(precision), attention=attention)
            _log.info("learning from %s as well: one more model in memory, in %s", name, self.teacher.dtype)
        self.facts = asdict(settings.facts(name, fingerprint, kept))
        self._fingerprint = fingerprint

    def match_streams(self, model: nn.Module, family: Family, source: str, fingerprint: str) -> None:
        """Compare the streams of ``model``, which was read from ``source``, with the teacher's from now on."""
        assert self.teacher is not None
        units = counterparts(
            source, family.shape, fingerprint=fingerprint, teacher_fingerprint=self._fingerprint
        )
        blocks = cast(nn.ModuleList, model.get_submodule(family.blocks))
        self._streams = StreamMatching(blocks, self._teacher_blocks(self.teacher), units)

    def shard(self, mesh: DeviceMesh) -> None:
        """Shard the teacher as the model is."""
        if self.teacher is not None:
            shard(self._teacher_blocks(self.teacher), self.teacher.model, [], mesh, compute_dtype=None)

    def to(self, device: torch.device) -> None:
        """Bring the teacher to where the run computes."""
        if self.teacher is not None:
            self.teacher.to(device)

    def sums(
        self,
        model: nn.Module,
        batch: DomainBatch,
        inputs_of: Callable[[Any], dict[str, Tensor]],
        gates: Mapping[Axis, Tensor],
        objectives: Sequence[Weights],
    ) -> list[StepSums]:
        """The sums of a micro-batch, of which ``inputs_of`` makes what stock models take, under ``gates``."""
        inputs = inputs_of(batch)
        if self.cache is not None:
            return sums_of_each(model, inputs, objectives, self._said(self.cache, batch, inputs_of))
        with ExitStack() as stack:
            layers = None
            if self._streams is not None:
                distance = stack.enter_context(self._streams.watched(gates))
                layers = LayerTerm(self.settings.layers_weight, distance)
            return sums_of_each(model, inputs, objectives, self.teacher, layers)

    def _said(
        self, cache: TeacherCache, batch: DomainBatch, inputs_of: Callable[[Any], dict[str, Tensor]]
    ) -> Sparse:
        """What the teacher says of a micro-batch; of what the cache lacks, what it would have."""
        keys, device = batch["keys"], batch["tokens"].device
        absent = cache.missing(keys)
        if not absent or self.teacher is None:
            return cache.read(keys).to(device)
        rows = {name: part[absent] for name, part in batch.items() if isinstance(part, Tensor)}
        names = [(self._domains[keys[row][0]], keys[row][1]) for row in absent]
        fresh = answers(self.teacher.model, inputs_of(rows), names, cache.record)
        there = [row for row in range(len(keys)) if row not in absent]
        if not there:
            return fresh
        both = Sparse.joined([cache.read([keys[row] for row in there]).to(device), fresh])
        return both.at(torch.tensor([*there, *absent], device=device).argsort())

    @staticmethod
    def _teacher_blocks(teacher: Teacher) -> nn.ModuleList:
        family = family_of(read_config(teacher.name))
        return cast(nn.ModuleList, teacher.model.get_submodule(family.blocks))
