"""What the tests of gates and cuts share."""

import pytest
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.toy_models import float64_norm


@pytest.fixture
def float64_norms(monkeypatch):
    """Norms that stay in float64; the softmax of the sdpa attention does so by itself."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", float64_norm)
