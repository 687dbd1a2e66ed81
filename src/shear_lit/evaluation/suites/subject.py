"""The model that a suite is asked of: identified and held against the memory first, read when a question is asked."""

import hashlib
from typing import Literal

import torch

from shear_lit.data.tokens.conversions import beside
from shear_lit.evaluation.suites.measuring import Subject
from shear_lit.evaluation.suites.processes import Processes
from shear_lit.evaluation.suites.registry import quiet_harness
from shear_lit.models.choices import Precision
from shear_lit.models.huggingface import read_config, read_model, source_fingerprint, stored_dtype
from shear_lit.models.memory import check_fits
from shear_lit.models.source_files import TOKENIZER_FILES, files_read, local_directory, pinned

ComputeDtype = Literal["source"] | Precision
"""What is computed in; ``source``: what the weights are stored in."""


def subject_of(
    model: str,
    *,
    dtype: ComputeDtype,
    device: torch.device,
    batch_size: int,
    processes: Processes,
    parameters: int,
) -> Subject:
    """A model to be asked, of which only headers are read yet.

    Raises:
        SourceError: there is no such model, or it is larger than the memory.
        DataError: it has no tokenizer.
    """
    name = pinned(model)
    read_config(name, for_training=False)
    chosen = stored_dtype(name, for_training=False) if dtype == "source" else dtype
    computed: torch.dtype = getattr(torch, chosen)
    check_fits(name, parameters, computed, device)
    tokenizer = beside(name)

    def open_model() -> object:
        from shear_lit.evaluation.suites.answering import SharedModel

        network = read_model(name, dtype=computed, for_training=False).to(device)  # type: ignore[arg-type]
        with quiet_harness():
            return SharedModel(network, tokenizer, batch_size=batch_size, processes=processes)

    return Subject(name=name, fingerprint=model_fingerprint(name), dtype=chosen, open=open_model)


def model_fingerprint(name: str) -> str:
    """A hash that changes when the weights, the config or a file of the tokenizer does."""
    digest = hashlib.sha256(source_fingerprint(name, for_training=False).encode())
    directory = local_directory(name, TOKENIZER_FILES)
    for path in files_read(directory, TOKENIZER_FILES):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
