"""A folder of questions and a model, made once."""

import pytest
import torch

from tests.evaluation.suites.questions import write_model, write_questions


@pytest.fixture(scope="session")
def asked(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="the harness asks the questions: pip install shear-lit[eval]")
    folder = tmp_path_factory.mktemp("questions")
    write_questions(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small matrices, of which several threads make nothing but waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """What libraries keep of a data set lies in this session's folder."""
    place = tmp_path_factory.getbasetemp() / "datasets"
    config = pytest.importorskip("datasets").config
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(place))
