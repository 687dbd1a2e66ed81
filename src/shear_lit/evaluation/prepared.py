"""The validation text of a prepared data set, opened for one model after looking at whether the two fit."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from shear_lit.data.boundaries import boundary_of
from shear_lit.data.loader import ValidationLoader
from shear_lit.data.preparation.prepare import tokenizer_fingerprint
from shear_lit.data.remote import REMOTE, RemoteSettings, read_prepared
from shear_lit.data.store import DomainBatch, SequenceStore
from shear_lit.mistakes import Mistake
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.huggingface import read_config


class EvaluationError(Mistake):
    """A model and a data set that do not fit."""


@dataclass(frozen=True, kw_only=True)
class ValidationText:
    """Sequences that no training run has read, by domain."""

    domains: tuple[str, ...]
    """The domains' names; a batch holds indices into them."""
    batches: Iterable[DomainBatch]
    """Batches of ``tokens`` and ``domain``: the same ones, in the same order, as a run validates on."""
    tokenizer: str
    """Fingerprint of the tokenizer that made the tokens."""


def open_validation_text(
    directory: str,
    model: str,
    *,
    sequences_per_domain: int,
    micro_batch: int,
    cross_document_attention: bool = True,
    remote: RemoteSettings = REMOTE,
) -> ValidationText:
    """Open the validation split of prepared data for a model, of which only the config and tokenizer are read.

    Raises:
        EvaluationError: the sequences are longer than the model allows, or hold tokens that it does not know.
        DataError: the directory is not whole, was made with another tokenizer than the model's, or does not tell
            documents apart that attention must not cross.
    """
    manifest = read_prepared(directory, remote)
    store = SequenceStore(directory, "validation", manifest, remote)
    config = read_config(model)
    if manifest.sequence_length > config.max_position_embeddings:
        raise EvaluationError(
            f"data={directory!r} has sequences of {manifest.sequence_length} tokens, and {model!r} allows "
            f"{config.max_position_embeddings} (max_position_embeddings): positions beyond were never trained. "
            f"Prepare the data with --sequence_length {config.max_position_embeddings} or less."
        )
    if manifest.tokenizer.vocabulary > config.vocab_size:
        raise EvaluationError(
            f"data={directory!r} holds token ids up to {manifest.tokenizer.vocabulary - 1}, and {model!r} knows "
            f"{config.vocab_size}: the data was made with another tokenizer. Prepare it with the model's."
        )
    if has_tokenizer(model):
        tokenizer = AutoTokenizer.from_pretrained(Path(model).expanduser(), trust_remote_code=False)
        manifest.check_tokenizer(tokenizer_fingerprint(tokenizer), model)
    return ValidationText(
        domains=store.domains,
        batches=ValidationLoader(
            store,
            sequences=sequences_per_domain,
            micro_batch=micro_batch,
            boundary=None if cross_document_attention else boundary_of(manifest, directory),
        ),
        tokenizer=manifest.tokenizer.fingerprint,
    )
