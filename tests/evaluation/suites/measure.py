"""A suite asked of a model, as a process of its own does it."""

import os
from pathlib import Path

import torch

from shear_lit.evaluation.suites.kept import KeptResults
from shear_lit.evaluation.suites.measuring import measure_suite
from shear_lit.evaluation.suites.processes import processes_of_environment
from shear_lit.evaluation.suites.registry import resolve
from shear_lit.evaluation.suites.subject import subject_of
from shear_lit.evaluation.suites.suite import read_suite


def measured(suite, model, kept, *, batch_size=3, questions=None, datasets=None):
    """The outcomes, and the requests that this process has answered."""
    if datasets is not None:
        import datasets as library

        library.config.HF_DATASETS_CACHE = datasets
    if "WORLD_SIZE" in os.environ:
        os.environ["RANK"] = os.environ["LOCAL_RANK"]
    models = []
    with processes_of_environment() as processes:
        subject = subject_of(
            str(model),
            dtype="source",
            device=torch.device("cpu"),
            batch_size=batch_size,
            processes=processes,
            parameters=1,
        )

        def open_model():
            models.append(subject.open())
            return models[-1]

        watched = subject.__class__(
            name=subject.name, fingerprint=subject.fingerprint, dtype=subject.dtype, open=open_model
        )
        resolved = resolve(read_suite(str(suite)))
        outcomes = measure_suite(
            resolved, watched, KeptResults(Path(kept)), questions=questions, processes=processes
        )
    found = {each.resolved.task.name: each.results for each in outcomes}
    return found, sum(each.answered for each in models)
