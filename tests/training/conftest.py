"""Watched runs that several tests look at."""

import pytest

from tests.training.forks import run
from tests.training.runs import fit


@pytest.fixture(scope="session")
def whole(toy, tmp_path_factory):
    """An uninterrupted run, made once for all tests that ask for it: its folder, and what each rank saw."""
    known = {}

    def of(stage, *flags, source="gqa-tied", processes=1):
        key = (stage, flags, source)
        if key not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            arguments = [*toy.arguments(stage, folder, source=source), *flags]
            known[key] = folder, run(fit, folder.parent / "log", processes=processes, arguments=arguments)
        return known[key]

    return of
