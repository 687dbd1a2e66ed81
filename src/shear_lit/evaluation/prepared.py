"""The validation text of a prepared data set, opened for one model after looking at whether the two fit."""

from collections.abc import Iterable
from dataclasses import dataclass

from shear_lit.data.serving.batch import DomainBatch
from shear_lit.data.serving.remote import REMOTE, RemoteSettings, read_prepared
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.tokenizer import check_made_by
from shear_lit.evaluation.suites.processes import ALONE, Processes
from shear_lit.mistakes import Mistake
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.huggingface import read_config
from shear_lit.models.source_files import pinned
from shear_lit.models.text_check import check_text


class EvaluationError(Mistake):
    """Losses that cannot be measured, or not be kept."""


@dataclass(frozen=True, kw_only=True)
class ValidationText:
    """Sequences that no training run has read, by domain."""

    model: str
    """Directory of the model, or ``organisation/model@commit``: what was looked at."""
    domains: tuple[str, ...]
    """The domains' names; a batch holds indices into them."""
    batches: Iterable[DomainBatch]
    """Batches of ``tokens`` and ``domain``: the same ones, in the same order, as a run validates on."""
    tokenizer: str
    """Fingerprint of the tokenizer that made the tokens."""
    knows_documents: bool
    """Whether batches say which document a token is of."""
    data: str
    """Fingerprint of the prepared data."""


def open_validation_text(
    directory: str,
    model: str,
    *,
    sequences_per_domain: int,
    micro_batch: int,
    cross_document_attention: bool = True,
    remote: RemoteSettings = REMOTE,
    processes: Processes = ALONE,
) -> ValidationText:
    """Open the validation split of prepared data for a model, of which only the config and tokenizer are read.

    Several processes have batches of their own, which together are all.

    Raises:
        SourceError: the model cannot be used.
        TextError: the sequences are longer than the model allows, or hold tokens that it does not know.
        DataError: the directory is not whole, was made with another tokenizer than the model's, or does not say where
            the documents begin that attention must not cross.
    """
    manifest = read_prepared(directory, remote)
    store = SequenceStore(directory, "validation", manifest, remote)
    model = pinned(model)
    config = read_config(model)
    check_text(
        config,
        model=model,
        text=directory,
        vocabulary=manifest.tokenizer.vocabulary,
        sequence_length=manifest.sequence_length,
    )
    if has_tokenizer(model):
        check_made_by(manifest, model)
    loader = ValidationLoader(
        store,
        sequences=sequences_per_domain,
        micro_batch=micro_batch,
        documents_apart=not cross_document_attention,
        rank=processes.rank,
        world_size=processes.size,
    )
    loader.documents_numbered = True
    return ValidationText(
        model=model,
        domains=store.domains,
        batches=loader,
        tokenizer=manifest.tokenizer.fingerprint,
        knows_documents=store.knows_documents,
        data=manifest.fingerprint,
    )
