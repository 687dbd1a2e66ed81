"""Fixtures of more than one folder."""

import pytest

from tests.toy import Toy, write_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Toy:
    """Two tiny models and prepared data of three domains."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def storage():
    """An S3 server on this machine, which every S3 client of the session then asks."""
    pytest.importorskip("moto", reason="the S3 server is moto's: pip install shear-lit[test]")
    from tests.data.storage import Storage

    patch, server = pytest.MonkeyPatch(), Storage()
    settings = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}
    for key, value in {**settings, "ENDPOINT_URL": server.url}.items():
        patch.setenv(f"AWS_{key}", value)
    server.start()
    yield server
    server.stop()
    patch.undo()
