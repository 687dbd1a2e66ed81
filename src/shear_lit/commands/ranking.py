"""Units of a model in the order of their importance, without training."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from shear_lit.commands.failures import UsageError
from shear_lit.commands.measuring import chosen_device
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.disk.writing import write_file
from shear_lit.evaluation.calibration import CalibrationText, open_calibration_text
from shear_lit.models.choices import Device, Precision
from shear_lit.models.huggingface import read_config, read_model, source_fingerprint
from shear_lit.models.registry import family_of
from shear_lit.models.source_files import pinned
from shear_lit.progress import Progress
from shear_lit.pruning.attach import attach
from shear_lit.ranking.criteria import WITHOUT_TEXT, Criteria, criteria_by_axis, named
from shear_lit.ranking.importance import Passage
from shear_lit.ranking.measuring import measure, passes_over_text
from shear_lit.ranking.scores import Origin, scores_file
from shear_lit.reporting.ranking_page import ranking_page


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores that were written."""

    output: str
    """The file."""
    page: str
    """The page beside it."""
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
            f"model.pruning.initial_scores\nshown in {self.page}"
        )


@dataclass(frozen=True)
class _Watched:
    """Text that counts its passages each time it is read."""

    text: Iterable[Passage]
    progress: Progress

    def __iter__(self) -> Iterator[Passage]:
        for passage in self.text:
            yield passage
            self.progress.add()


def rank_units(
    source: str,
    file: Path,
    criterion: Criteria,
    *,
    data: str | None,
    split: Literal["prune", "pretrain"],
    sequences_per_domain: int,
    sample: int,
    dtype: Precision,
    device: Device,
    seed: int,
    cross_document_attention: bool,
    remote: RemoteSettings,
) -> Ranking:
    """Order the units of a model and write the scores; ``rank`` says what the arguments are."""
    criteria = criteria_by_axis(criterion)
    if (data is None) != (set(criteria.values()) <= set(WITHOUT_TEXT)):
        name = named(criteria, criterion)
        raise UsageError(
            f"data={data!r}: criterion={name} is measured on text. Name a directory of `shear-lit prepare`."
            if data is None
            else f"data={data!r} has no effect: criterion={name} needs no text. Remove it."
        )
    where, source = chosen_device(device), pinned(source)
    config = read_config(source)
    family = family_of(config)
    text: CalibrationText | tuple[()] = ()
    fingerprint = None
    if data is not None:
        text, manifest = open_calibration_text(
            data,
            source,
            split=split,
            sequences_per_domain=sequences_per_domain,
            sample=sample,
            device=where,
            cross_document_attention=cross_document_attention,
            remote=remote,
        )
        fingerprint = manifest.fingerprint
    model = read_model(source, dtype=getattr(torch, dtype))
    model.to(where)  # type: ignore[arg-type]
    model.requires_grad_(requires_grad=False)  # the gates' gradients are all that is asked for
    attached = attach(model, family)
    passes = passes_over_text(criteria)
    total = text.planned * passes if isinstance(text, CalibrationText) and passes else None
    with Progress("Ranking", total, "passage") as progress:
        found = measure(
            model, family, _Watched(text, progress), criteria, set_gates=attached.set, device=where, seed=seed
        )
    attached.detach()
    origin = Origin(
        source=source,
        source_fingerprint=source_fingerprint(source),
        source_shape=family.shape,
        criterion=named(criteria, criterion),
        data_fingerprint=fingerprint,
        sequences=text.sequences if isinstance(text, CalibrationText) else None,
        tokens=text.tokens if isinstance(text, CalibrationText) else None,
    )
    page = file.with_suffix(".html")
    write_file(file, scores_file(found.importance, origin))
    write_file(page, ranking_page(found, criteria, origin))
    return Ranking(
        output=str(file),
        page=str(page),
        source=source,
        criterion=origin.criterion,
        sequences=origin.sequences or 0,
        axes=tuple(axis.value for axis in found.importance),
    )
