"""The time that a run takes at least."""

import pytest
import torch

from shear_lit.training import expecting
from shear_lit.training.expecting import least_seconds
from tests import tiny


@pytest.mark.parametrize("tied", [True, False])
def test_time_is_that_of_all_products_of_weights_and_tokens(monkeypatch, tied):
    """Six operations for each weight of a product and each token; of the embedding, those of the head."""
    monkeypatch.setattr(expecting, "_speed", lambda rows, inputs, outputs, dtype, device: 1e9)
    model = tiny.model(tiny.config(tied=tied))
    embedding = model.get_input_embeddings().weight
    layers = sum(
        part.numel() for name, part in model.named_parameters() if "layers" in name and part.ndim == 2
    )
    found = least_seconds(model, embedding, tokens=1000, rows=64, processes=2, dtype=torch.float32)
    assert found == pytest.approx(6 * (layers + embedding.numel()) * 1000 / 2e9)


def test_speed_is_measured_on_products_that_fit(monkeypatch):
    asked = []

    def speed(rows, inputs, outputs, dtype, device):
        asked.append((rows, inputs, outputs))
        return 1.0

    monkeypatch.setattr(expecting, "_speed", speed)
    model = tiny.model(tiny.config(tied=False))
    least_seconds(
        model, model.get_input_embeddings().weight, tokens=1, rows=10**6, processes=1, dtype=torch.float32
    )
    assert asked == [(1024, 32, 48)]  # the head of a real model has 100,000 rows


def test_speed_is_what_the_machine_does():
    speed = expecting._speed(64, 64, 64, torch.float32, torch.device("cpu"))
    assert 1e6 < speed < 1e15
