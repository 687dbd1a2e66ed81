"""Several models, measured one after the other and put side by side."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shear_lit.commands.comparison_cards import cards_in, put_into_cards
from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.measuring import DomainLosses, chosen_device, watched_batches
from shear_lit.commands.scoring import score_suite
from shear_lit.data.errors import DataError
from shear_lit.data.serving.remote import REMOTE
from shear_lit.data.tokens.token_bytes import token_bytes
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import write_file
from shear_lit.evaluation.answers.figures import Answers
from shear_lit.evaluation.answers.judge import Judge
from shear_lit.evaluation.answers.judging import transcript, win_rates
from shear_lit.evaluation.answers.measuring import Questions, open_questions
from shear_lit.evaluation.answers.prompts import read_prompts
from shear_lit.evaluation.compared import ComparedModel
from shear_lit.evaluation.comparison import ALL, Comparison
from shear_lit.evaluation.document_loss import DocumentLosses, DomainFigures
from shear_lit.evaluation.domain_loss import measure_domain_losses
from shear_lit.evaluation.model_size import size_of
from shear_lit.evaluation.prepared import ValidationText, open_validation_text
from shear_lit.evaluation.raw_text import RawText, is_raw, read_raw_text
from shear_lit.evaluation.speed import measure_speeds
from shear_lit.evaluation.suites.kept import KeptResults, Measured
from shear_lit.evaluation.suites.subject import ComputeDtype, model_fingerprint
from shear_lit.mistakes import Mistake
from shear_lit.models.choices import Device
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.huggingface import read_config, read_model, stored_dtype
from shear_lit.models.memory import check_fits, stored_parameters
from shear_lit.models.source_files import CONFIG, is_local, pinned
from shear_lit.progress import watched
from shear_lit.reporting.recipe import recipes
from shear_lit.training.run_checkpoints import complete_checkpoints

ANSWERS = "answers.jsonl"
"""The file of what models answered."""
_EXPORT = "hf"
Text = ValidationText | RawText | None
"""What losses are measured on, if they are."""


class CompareError(Mistake):
    """Models that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is measured (``compare`` says what the entries are)."""

    data: tuple[str, ...]
    suite: str | None
    against: str | None
    sequences: int
    micro_batch: int
    questions: int | None
    speed: bool
    dtype: ComputeDtype
    device: Device
    cross_document_attention: bool
    prompts: str | None
    new_tokens: int
    judge: Judge | None
    cards: bool = False


def compare_models(
    models: Sequence[str], wishes: Wishes, output: Path | None, cache: Path | None
) -> Comparison:
    """Measure the models, and write what was found into ``output``.

    Raises:
        CompareError, SourceError, DataError, SuiteError: a model, the data or the suite cannot be used.
    """
    if len(set(models)) < 2 or len(set(models)) < len(models):
        raise CompareError(f"models={list(models)}: at least two different models are compared. Name them.")
    names = _names(models)
    against = _against(wishes.against, models, names)
    places = [_place(name) for name in models]
    cards = cards_in(places) if wishes.cards else ()
    texts = _texts(places, wishes)  # all refusals, before any weight is read
    questions = _questions(wishes, places)
    kept = KeptResults((default_cache() / "scores") if cache is None else cache)
    found = [
        _measured(name, place, text, wishes, kept)
        for name, place, text in zip(names, places, texts, strict=True)
    ]
    if wishes.speed:
        found = _with_speeds(found, wishes)
    if questions is not None:
        found = [replace(model, answers=_answers(model.model, questions, wishes, kept)) for model in found]
    comparison = Comparison(models=tuple(found), against=against)
    if questions is not None and wishes.judge is not None:
        rates = win_rates(questions.prompts, comparison.pairs(), wishes.judge, kept)
        comparison = replace(comparison, win_rates=rates)
    if questions is not None and output is not None:
        said = transcript(questions.prompts, comparison.models, comparison.win_rates)
        write_file(output / ANSWERS, said)
    if output is not None:
        write_file(output / "compare.md", f"{comparison}\n")
        write_file(output / "compare.json", comparison.to_json())
    put_into_cards(comparison, cards)
    return comparison


def compared(name: str, losses: DomainLosses) -> ComparedModel:
    """A model for a comparison whose losses have been measured already."""
    tokens, seconds = _spent(losses.model)
    return ComparedModel(
        name=name,
        model=losses.model,
        size=size_of(losses.model, losses.dtype),
        losses=losses.figures,
        documents=losses.documents,
        text=losses.text,
        tokens=tokens,
        device_seconds=seconds,
    )


def _place(name: str) -> str:
    """The model itself: of a run, its export."""
    path = expanded(name)
    if path.is_dir() and not (path / CONFIG).exists():
        if (path / _EXPORT / CONFIG).exists():
            return str(path / _EXPORT)
        written = complete_checkpoints(path)
        if written:
            raise CompareError(
                f"models: {name!r} is a run that has not been exported, and models are compared as exports. Type: "
                f"shear-lit export --checkpoint {written[-1]} --output {path / _EXPORT}"
            )
        raise CompareError(
            f"models: {name!r} has neither a {CONFIG} nor an export in {_EXPORT}/: a model's directory is expected. "
            f"Run `shear-lit export` first, and name what it wrote."
        )
    return pinned(name)


def _names(models: Sequence[str]) -> list[str]:
    short = [Path(name).name for name in models]
    return short if len(set(short)) == len(short) else list(models)


def _against(wanted: str | None, models: Sequence[str], names: Sequence[str]) -> str:
    """The name in the tables of the model that the others are compared with."""
    if wanted == ALL:
        return ALL
    known = {**dict(zip(models, names, strict=True)), **dict(zip(names, names, strict=True))}
    if wanted is not None and wanted not in known:
        raise CompareError(
            f"against={wanted!r} is none of the models: {', '.join(names)}, or {ALL} for each with each. Correct it."
        )
    return names[0] if wanted is None else known[wanted]


def _texts(places: Sequence[str], wishes: Wishes) -> list[Text]:
    """What each model's losses are measured on."""
    raw = [is_raw(data, expanded(data)) for data in wishes.data]
    if not any(raw):
        return [_prepared(place, wishes) for place in places]
    if not all(raw):
        raise CompareError(
            f"data={list(wishes.data)}: some are files of text and some are none. Name either files, which every model "
            f"cuts into tokens of its own, or prepared data."
        )
    text = read_raw_text(wishes.data, documents_per_domain=wishes.sequences)
    for place in places:
        text.check(place)
    return [text for _ in places]


def _prepared(place: str, wishes: Wishes) -> ValidationText | None:
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


def _measured(name: str, place: str, text: Text, wishes: Wishes, kept: KeptResults) -> ComparedModel:
    dtype = _dtype(place, wishes)
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
    tokens, seconds = _spent(place)
    return ComparedModel(
        name=name,
        model=place,
        size=size_of(place, dtype),
        losses={domain: DomainFigures(**each["figures"]) for domain, each in losses.items()},
        documents={domain: np.array(each["documents"]) for domain, each in losses.items()},
        text="" if text is None else _fingerprint(text),
        scores=scores,
        tokens=tokens,
        device_seconds=seconds,
    )


def _questions(wishes: Wishes, places: Sequence[str]) -> Questions | None:
    """The prompts that models are asked, if there are any."""
    if wishes.prompts is None:
        return None
    prompts = read_prompts(wishes.prompts, expanded(wishes.prompts), most=wishes.questions)
    return open_questions(prompts, places, new_tokens=wishes.new_tokens)


def _answers(place: str, questions: Questions, wishes: Wishes, kept: KeptResults) -> Answers:
    dtype = _dtype(place, wishes)
    return questions.answers(place, dtype, kept, lambda: _network(place, dtype, wishes))


def _dtype(place: str, wishes: Wishes) -> str:
    return stored_dtype(place, for_training=False) if wishes.dtype == "source" else wishes.dtype


def _spent(place: str) -> tuple[int, float]:
    """Tokens and device-seconds of the runs behind a model, as its recipes say; nan where one does not say."""
    chain = recipes(expanded(place)) if is_local(place) else ()
    runs: list[Mapping[str, Any]] = [recipe for recipe in chain if recipe.get("step")]
    seconds = [recipe.get("device_seconds") for recipe in runs]
    tokens = sum(int(recipe.get("tokens") or 0) for recipe in runs)
    return tokens, math.nan if None in seconds else float(sum(filter(None, seconds)))


def _fingerprint(text: ValidationText | RawText) -> str:
    return text.fingerprint if isinstance(text, RawText) else text.data


def _losses(
    place: str, text: ValidationText | RawText, dtype: str, wishes: Wishes, kept: KeptResults
) -> dict[str, Any]:
    """Figures and sums by document, of every domain; those that were measured before are read."""
    asked = [_fingerprint(text), wishes.sequences, wishes.cross_document_attention]
    measured = Measured(
        model=model_fingerprint(place),
        dtype=dtype,
        task="domain-losses",
        asked=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        questions=wishes.sequences,
    )
    found = kept.read(measured)
    if found is None:
        documents = _counted(place, text, _network(place, dtype, wishes))
        found = {
            name: {"figures": asdict(documents.figures(n)), "documents": documents.by_document(n).tolist()}
            for n, name in enumerate(text.domains)
        }
        kept.write(measured, found)
    return found


def _counted(place: str, text: ValidationText | RawText, network: Any) -> DocumentLosses:
    if isinstance(text, RawText):
        documents = DocumentLosses()
        batches = watched(text.batches(place), "Measuring losses", "document")
        measure_domain_losses(network, batches, text.domains, documents)
        for number, name in enumerate(text.domains):
            documents.know_bytes(number, text.bytes_of(name))
        return documents
    documents = DocumentLosses(token_bytes(tokenizer_of(place)) if has_tokenizer(place) else None)
    measure_domain_losses(network, watched_batches(text), text.domains, documents)
    return documents


def _network(place: str, dtype: str, wishes: Wishes) -> Any:
    where, computed = chosen_device(wishes.device), getattr(torch, dtype)
    check_fits(place, stored_parameters(place), computed, where)
    return read_model(place, dtype=computed, for_training=False).to(where)  # type: ignore[arg-type]


def _with_speeds(found: Sequence[ComparedModel], wishes: Wishes) -> list[ComparedModel]:
    networks = {}
    for model in found:
        networks[model.name] = _network(model.model, _dtype(model.model, wishes), wishes).eval()
    speeds = measure_speeds(networks)
    return [replace(model, speeds=speeds[model.name]) for model in found]
