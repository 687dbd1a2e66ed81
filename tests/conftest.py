"""Fixtures of more than one folder."""

import pytest

from tests.toy import Toy, write_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Toy:
    """Two tiny models and prepared data of three domains."""
    return write_toy(tmp_path_factory.mktemp("toy"))
