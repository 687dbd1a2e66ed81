"""Several models, measured one after the other and put side by side."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.measuring import chosen_device
from shear_lit.commands.scoring import score_suite
from shear_lit.data.errors import DataError
from shear_lit.data.serving.remote import REMOTE
from shear_lit.data.tokens.token_bytes import token_bytes
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import write_file
from shear_lit.evaluation.comparison import ComparedModel, Comparison
from shear_lit.evaluation.document_loss import DocumentLosses, DomainFigures
from shear_lit.evaluation.domain_loss import measure_domain_losses
from shear_lit.evaluation.model_size import size_of
from shear_lit.evaluation.prepared import ValidationText, open_validation_text
from shear_lit.evaluation.speed import measure_speeds
from shear_lit.evaluation.suites.kept import KeptResults, Measured
from shear_lit.evaluation.suites.subject import ComputeDtype, model_fingerprint
from shear_lit.mistakes import Mistake
from shear_lit.models.choices import Device
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.huggingface import read_config, read_model, stored_dtype
from shear_lit.models.memory import check_fits, stored_parameters
from shear_lit.models.source_files import CONFIG, is_local, pinned
from shear_lit.reporting.recipe import recipes

_EXPORT = "hf"


class CompareError(Mistake):
    """Models that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is measured (``compare`` says what the entries are)."""

    data: tuple[str, ...]
    suite: str | None
    sequences: int
    micro_batch: int
    questions: int | None
    speed: bool
    dtype: ComputeDtype
    device: Device
    cross_document_attention: bool


def compare_models(
    models: Sequence[str], wishes: Wishes, output: Path | None, cache: Path | None
) -> Comparison:
    """Measure the models, and write what was found into ``output``.

    Raises:
        CompareError, SourceError, DataError, SuiteError: a model, the data or the suite cannot be used.
    """
    if len(set(models)) < 2 or len(set(models)) < len(models):
        raise CompareError(f"models={list(models)}: at least two different models are compared. Name them.")
    places = [_place(name) for name in models]
    texts = [_text(place, wishes) for place in places]  # all refusals, before any weight is read
    kept = KeptResults((default_cache() / "scores") if cache is None else cache)
    names = _names(models)
    found = [
        _measured(name, place, text, wishes, kept)
        for name, place, text in zip(names, places, texts, strict=True)
    ]
    if wishes.speed:
        found = _with_speeds(found, wishes)
    comparison = Comparison(models=tuple(found))
    if output is not None:
        write_file(output / "compare.md", f"{comparison}\n")
        write_file(output / "compare.json", comparison.to_json())
    return comparison


def _place(name: str) -> str:
    """The model itself: of a run, its export."""
    path = expanded(name)
    if path.is_dir() and not (path / CONFIG).exists():
        if (path / _EXPORT / CONFIG).exists():
            return str(path / _EXPORT)
        raise CompareError(
            f"models: {name!r} has neither a {CONFIG} nor an export in {_EXPORT}/: a model's directory is expected. "
            f"Run `shear-lit export` first, and name what it wrote."
        )
    return pinned(name)


def _names(models: Sequence[str]) -> list[str]:
    short = [Path(name).name for name in models]
    return short if len(set(short)) == len(short) else list(models)


def _text(place: str, wishes: Wishes) -> ValidationText | None:
    """The validation text that a model's tokenizer made: the first of those that are named.

    Raises:
        DataError: there are some, and none is for this model.
    """
    read_config(place, for_training=False)
    error: DataError | None = None
    for data in wishes.data:
        try:
            return open_validation_text(
                data,
                place,
                sequences_per_domain=wishes.sequences,
                micro_batch=wishes.micro_batch,
                cross_document_attention=wishes.cross_document_attention,
                remote=REMOTE,
            )
        except DataError as found:
            error = found
    if error is not None:
        raise error
    return None


def _measured(
    name: str, place: str, text: ValidationText | None, wishes: Wishes, kept: KeptResults
) -> ComparedModel:
    dtype = stored_dtype(place, for_training=False) if wishes.dtype == "source" else wishes.dtype
    losses = {} if text is None else _losses(place, text, dtype, wishes, kept)
    scores = None
    if wishes.suite is not None:
        scores = score_suite(
            wishes.suite,
            place,
            output=None,
            questions=wishes.questions,
            dtype=wishes.dtype,
            device=wishes.device,
            batch_size="auto",
            cache=kept.folder,
        )
    chain = recipes(expanded(place)) if is_local(place) else ()
    return ComparedModel(
        name=name,
        model=place,
        size=size_of(place, dtype),
        losses={domain: DomainFigures(**each["figures"]) for domain, each in losses.items()},
        documents={domain: np.array(each["documents"]) for domain, each in losses.items()},
        text="" if text is None else text.data,
        scores=scores,
        tokens=sum(int(recipe.get("tokens") or 0) for recipe in chain),
    )


def _losses(
    place: str, text: ValidationText, dtype: str, wishes: Wishes, kept: KeptResults
) -> dict[str, Any]:
    """Figures and sums by document, of every domain; those that were measured before are read."""
    asked = [text.data, wishes.sequences, wishes.cross_document_attention]
    measured = Measured(
        model=model_fingerprint(place),
        dtype=dtype,
        task="domain-losses",
        asked=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        questions=wishes.sequences,
    )
    found = kept.read(measured)
    if found is None:
        documents = DocumentLosses(token_bytes(tokenizer_of(place)) if has_tokenizer(place) else None)
        measure_domain_losses(_network(place, dtype, wishes), text.batches, text.domains, documents)
        found = {
            name: {"figures": asdict(documents.figures(n)), "documents": documents.by_document(n).tolist()}
            for n, name in enumerate(text.domains)
        }
        kept.write(measured, found)
    return found


def _network(place: str, dtype: str, wishes: Wishes) -> Any:
    where, computed = chosen_device(wishes.device), getattr(torch, dtype)
    check_fits(place, stored_parameters(place), computed, where)
    return read_model(place, dtype=computed, for_training=False).to(where)  # type: ignore[arg-type]


def _with_speeds(found: Sequence[ComparedModel], wishes: Wishes) -> list[ComparedModel]:
    networks = {}
    for model in found:
        dtype = stored_dtype(model.model, for_training=False) if wishes.dtype == "source" else wishes.dtype
        networks[model.name] = _network(model.model, dtype, wishes).eval()
    speeds = measure_speeds(networks)
    return [ComparedModel(**{**vars(model), "speeds": speeds[model.name]}) for model in found]
