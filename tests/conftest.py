"""Fixtures of more than one folder, and what is left out."""

import os

import pytest
import torch

from tests.toy import Toy, write_toy


def pytest_runtest_setup(item):
    """Leave out what is marked gpu where there is none, and what only ``make long`` runs.

    CUDA is asked for only for such a test, because asking starts it.
    """
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is false")
    if item.get_closest_marker("nightly") is not None and os.environ.get("SHEAR_LIT_NIGHTLY") != "all":
        pytest.skip("make long runs it")


@pytest.fixture(scope="session", autouse=True)
def own_record(tmp_path_factory):
    """A record of verified files for the session: none is left behind, and none of an earlier one is believed."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("record")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Toy:
    """Two tiny models and prepared data of three domains."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def float64_norms(monkeypatch):
    """Norms and softmax that stay in float64; the softmax of the sdpa attention does so by itself."""
    from tests.toy_families import ONE_PLUS_NORMS, RMS_NORMS, one_plus_float64, softmax_of_its_dtype
    from tests.toy_models import float64_norm

    for norm in RMS_NORMS:
        monkeypatch.setattr(norm, "forward", float64_norm)
    for norm in ONE_PLUS_NORMS:
        monkeypatch.setattr(norm, "forward", one_plus_float64)
    monkeypatch.setattr(torch.nn.functional, "softmax", softmax_of_its_dtype(torch.nn.functional.softmax))


@pytest.fixture(scope="session")
def storage():
    """An S3 server on this machine, which every S3 client of the session then asks."""
    pytest.importorskip("moto", reason="the S3 server is moto's: pip install shear-lit[test]")
    from tests.data.serving.storage import Storage

    patch, server = pytest.MonkeyPatch(), Storage()
    settings = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}
    for key, value in {**settings, "ENDPOINT_URL": server.url}.items():
        patch.setenv(f"AWS_{key}", value)
    server.start()
    yield server
    server.stop()
    patch.undo()


@pytest.fixture(scope="session")
def whole(toy, tmp_path_factory):
    """An uninterrupted run, made once for all tests that ask for it: its folder, and what each rank saw."""
    from tests.training.forks import run
    from tests.training.runs import fit

    known = {}

    def of(stage, *flags, source="gqa-tied", processes=1):
        key = (stage, flags, source)
        if key not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            arguments = [*toy.arguments(stage, folder, source=source), *flags]
            known[key] = folder, run(fit, folder.parent / "log", processes=processes, arguments=arguments)
        return known[key]

    return of
