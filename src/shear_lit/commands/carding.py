"""What the card of an export says, gathered from the checkpoint, the source and the run, with its pictures."""

import logging
from collections.abc import Mapping
from typing import Any

from shear_lit.commands.making import Making
from shear_lit.commands.run_reading import cut_of
from shear_lit.disk.names import expanded
from shear_lit.models import clients
from shear_lit.models.adapters import Lora
from shear_lit.models.companions import licence_files, source_licence
from shear_lit.models.huggingface import config_of
from shear_lit.models.registry import family_of, parameter_count
from shear_lit.pruning.artefact import GATES, gates_in, read_kept
from shear_lit.pruning.carve import KeptUnits
from shear_lit.ranking.criteria import meaning
from shear_lit.ranking.scores import LEARNED, Origin, ScoresError, read_scores
from shear_lit.reporting.card_pictures import (
    LOSS_PICTURE,
    SHAPE_PICTURE,
    loss_picture_file,
    shape_picture_file,
)
from shear_lit.reporting.model_facts import ModelFacts, RepairFacts, Selection, TeacherFacts
from shear_lit.reporting.recipe import recipes
from shear_lit.theory.shape import ModelShape
from shear_lit.training.checkpoints import CheckpointFacts

_log = logging.getLogger(__name__)


def card_of(
    name: str,
    facts: CheckpointFacts,
    origin: str,
    *,
    config: Any,
    dtype: str,
    difference: float | None,
    selection: Selection | None,
    repair: RepairFacts | None,
    kept: KeptUnits | None,
    making: Making,
) -> tuple[ModelFacts, dict[str, str]]:
    """The facts of a card, and the files beside it: pictures, and the config of the run.

    ``origin`` is where the source is now, ``config`` that of what is written, and ``kept`` the units of the source that
    it keeps, if it was cut.
    """
    before = config_of(facts.config)
    source_shape = family_of(before).shape
    shape = facts.target or source_shape
    earlier = recipes(expanded(origin))
    pictures = _pictures(source_shape, kept, origin, making)
    card = ModelFacts(
        name=name,
        source=facts.source,
        lineage=tuple(str(recipe.get("source")) for recipe in earlier),
        source_fingerprint=facts.source_fingerprint,
        licence=source_licence(origin),
        licence_files=tuple(licence_files(origin)),
        source_shape=source_shape,
        shape=shape,
        source_parameters=parameter_count(before),
        parameters=parameter_count(before, shape),
        dtype=dtype,
        selection=selection,
        repair=repair,
        repaired_at_start=None if facts.repair is None else RepairFacts(**facts.repair),
        teacher=None if facts.teacher is None else TeacherFacts(**facts.teacher),
        earlier=earlier,
        step=facts.step,
        tokens=facts.tokens,
        domains=facts.domains,
        losses=facts.losses,
        first_losses=making.first_losses,
        references=making.references,
        reproduction=making.reproduction,
        device_seconds=facts.device_seconds,
        adapters=None if facts.lora is None else str(Lora(**facts.lora)),
        gated_difference=difference,
        gates=GATES,
        clients=clients.lines(config),
        pictures=tuple(pictures),
    )
    return card, {**pictures, **making.files}


def selection_of(origin: Origin) -> Selection:
    """What a card says of a cut at scores, or at the gates of another run, without training."""
    learned = origin.criterion == LEARNED
    return Selection(
        criterion="gates of a run" if learned else origin.criterion,
        meaning="the gates that a run learned" if learned else meaning(origin.criterion),
        data_fingerprint=origin.data_fingerprint,
        sequences=origin.sequences,
        tokens=origin.tokens,
    )


def _pictures(source: ModelShape, kept: KeptUnits | None, origin: str, making: Making) -> Mapping[str, str]:
    """By name: the shape, of this cut or of the one that the source was made by, and the losses, if there are any."""
    found = {}
    if kept is None:
        source, kept = _earlier_cut(origin) or (source, None)
    if kept is not None:
        found[SHAPE_PICTURE] = shape_picture_file(source, cut_of(kept, ""))
    if (losses := loss_picture_file(making.series, making.references)) is not None:
        found[LOSS_PICTURE] = losses
    return found


def _earlier_cut(origin: str) -> tuple[ModelShape, KeptUnits] | None:
    """The cut that a source was made by, as the gates beside it say; none where there are none that can be read."""
    file = gates_in(expanded(origin))
    if not file.is_file():
        return None
    try:
        kept = read_kept(str(file))
        return None if kept is None else (read_scores(str(file)).origin.source_shape, kept)
    except ScoresError as error:
        _log.warning("WARNING: the card has no picture of the shape: %s", error)
        return None
