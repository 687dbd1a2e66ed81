"""Filling a teacher's cache: each file that is not there, by whichever process comes first."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shear_lit.commands.failures import UsageError
from shear_lit.commands.measuring import chosen_device
from shear_lit.data.serving.batch import model_inputs
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.taught.files import Piece, answers_of, bytes_per_token, claimed, pieces, write_piece
from shear_lit.data.taught.record import MOST_ANSWERS, CacheRecord, write_record
from shear_lit.evaluation.calibration import fitting_data
from shear_lit.evaluation.teaching import answers
from shear_lit.models.choices import Device, KeptOfTeacher, Precision
from shear_lit.models.huggingface import read_config, read_model, source_fingerprint
from shear_lit.models.source_files import pinned
from shear_lit.progress import watched
from shear_lit.theory.sparse import Sparse


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A cache, as this process leaves it."""

    output: str
    """Its directory."""
    record: CacheRecord
    """What it is of."""
    written: int
    """Sequences of the files that this process wrote."""
    there: int
    """Sequences that are there, of those asked for."""
    asked: int
    """Sequences that were asked for."""

    def __str__(self) -> str:
        record, size = self.record, bytes_per_token(self.record)
        whole = size * self.there * record.sequence_length
        left = f"; {self.asked - self.there:,} are in work elsewhere" if self.there < self.asked else ""
        return (
            f"{record.teacher} on {self.there:,} of {self.asked:,} sequences of {record.split} "
            f"({self.written:,} of them now{left})\n"
            f"{record.method} of {record.kept} at temperature {record.temperature:g}: {size:.0f} bytes per token, "
            f"{whole / 1e6:,.1f} MB\n"
            f"in {self.output}: learn from it with model.distillation.cache"
        )


def write_cache(
    model: str,
    data: str,
    directory: Path,
    *,
    split: str,
    method: KeptOfTeacher,
    kept: int,
    temperature: float,
    sequences_per_domain: int,
    seed: int,
    micro_batch: int,
    dtype: Precision,
    device: Device,
    cross_document_attention: bool,
    remote: RemoteSettings,
) -> Taught:
    """Write what is not yet there of a cache; ``teach`` says what the arguments are."""
    where, model = chosen_device(device), pinned(model)
    manifest = fitting_data(data, model, remote)
    store = SequenceStore(data, split, manifest, remote)
    if not cross_document_attention:
        store.check_documents()
    vocabulary = int(read_config(model).vocab_size)
    _check_kept(kept, method, vocabulary, manifest.sequence_length)
    record = CacheRecord(
        teacher=model,
        teacher_fingerprint=source_fingerprint(model),
        tokenizer=manifest.tokenizer.fingerprint,
        data_fingerprint=manifest.fingerprint,
        split=split,
        cross_document_attention=cross_document_attention,
        sequence_length=manifest.sequence_length,
        vocabulary=vocabulary,
        method=method,
        kept=kept,
        temperature=temperature,
        seed=seed,
    )
    record = write_record(directory, record)
    wanted = list(pieces(record, manifest, sequences_per_domain))
    written = 0
    if any(not piece.path(directory).exists() for piece in wanted):
        teacher = read_model(model, dtype=getattr(torch, dtype)).to(where).eval()  # type: ignore[arg-type]
        for piece in watched(wanted, "Asking the teacher", "file"):
            with claimed(piece.path(directory)) as ours:
                if ours:
                    said = Sparse.joined(list(_said(teacher, store, piece, record, micro_batch, where)))
                    write_piece(piece.path(directory), piece.sequences, answers_of(said, record))
                    written += len(piece.sequences)
    return Taught(
        output=str(directory),
        record=record,
        written=written,
        there=sum(len(piece.sequences) for piece in wanted if piece.path(directory).exists()),
        asked=sum(len(piece.sequences) for piece in wanted),
    )


def _said(
    teacher: Any,
    store: SequenceStore,
    piece: Piece,
    record: CacheRecord,
    micro_batch: int,
    device: torch.device,
) -> Iterator[Sparse]:
    domain = store.domains.index(piece.domain)
    for first in range(0, len(piece.sequences), micro_batch):
        numbers = piece.sequences[first : first + micro_batch].tolist()
        batch = store.read(
            [(domain, number) for number in numbers], documents_apart=not record.cross_document_attention
        )
        here = {name: part.to(device) for name, part in batch.items() if isinstance(part, Tensor)}
        said = answers(teacher, model_inputs(here), [(piece.domain, number) for number in numbers], record)
        yield said.to("cpu")


def _check_kept(kept: int, method: str, vocabulary: int, length: int) -> None:
    if method == "top_k" and kept > vocabulary:
        raise UsageError(
            f"kept={kept}: the teacher has {vocabulary:,} entries. Use kept={vocabulary} for all of them."
        )
    if kept * length > MOST_ANSWERS:
        raise UsageError(
            f"kept={kept}: of a sequence of {length:,} tokens, {kept * length:,} would be kept, and at most "
            f"{MOST_ANSWERS:,} may be. Use kept={MOST_ANSWERS // length} or less."
        )
