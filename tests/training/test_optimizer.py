"""One AdamW for the whole game: who ascends, who decays, and one schedule for all."""

import numpy as np
import pytest
import torch

from shear_lit.pruning.gates import Gates, Multipliers
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.errors import RunError
from shear_lit.training.optimizer import OptimizerSettings, build_optimizer, build_schedule

SHAPE = ModelShape(layers=2, hidden=4, query_heads=2, kv_heads=1, intermediate=6)
AXES = (Axis.LAYERS, Axis.HIDDEN)
SETTINGS = OptimizerSettings(
    weights_learning_rate=0.3,
    gates_learning_rate=0.2,
    multipliers_learning_rate=0.1,
    warmup_steps=5,
    final_fraction=0.1,
    weight_decay=0.5,
)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2), Gates(SHAPE, AXES), Multipliers(AXES, second_start=2.0)


def test_groups_are_weights_gates_and_ascending_multipliers(parts):
    weights, gates, multipliers = build_optimizer(SETTINGS, *parts).param_groups
    assert [group["name"] for group in (weights, gates, multipliers)] == ["weights", "gates", "multipliers"]
    assert [group["lr"] for group in (weights, gates, multipliers)] == [0.3, 0.2, 0.1]
    assert [group["maximize"] for group in (weights, gates, multipliers)] == [False, False, True]
    assert [group["weight_decay"] for group in (weights, gates, multipliers)] == [0.5, 0.0, 0.0]
    for group, part in zip((weights, gates, multipliers), parts, strict=True):
        assert [id(parameter) for parameter in group["params"]] == [id(p) for p in part.parameters()]


def test_without_pruning_there_are_only_weights(parts):
    assert [group["name"] for group in build_optimizer(SETTINGS, parts[0]).param_groups] == ["weights"]


def test_step_descends_weights_and_gates_and_ascends_multipliers(parts):
    """The first step of Adam is the learning rate, against the gradient's sign (with it, where it ascends)."""
    model, gates, multipliers = parts
    optimizer = build_optimizer(SETTINGS, *parts)
    before = [[p.detach().clone() for p in part.parameters()] for part in parts]
    for part in parts:
        for parameter in part.parameters():
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for old, new in zip(before[0], model.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.3 * 0.5) - 0.3)
    for old, new in zip(before[1], gates.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.2)
    for old, new in zip(before[2], multipliers.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_all_rates_warm_up_and_fall_by_one_cosine(parts):
    """Against a transcription of the release's schedule: linear to the peak, then a cosine to a tenth."""
    total, warmup = 20, SETTINGS.warmup_steps
    optimizer = build_optimizer(SETTINGS, *parts)
    schedule = build_schedule(SETTINGS, optimizer, total_steps=total)
    seen = []
    for _ in range(total + 3):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    step = np.arange(total + 3)
    through = np.clip((step - warmup) / (total - warmup), 0, 1)
    fraction = np.where(step < warmup, step / warmup, 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * through)))
    np.testing.assert_allclose(seen, fraction[:, None] * np.array([0.3, 0.2, 0.1]), rtol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gates_learning_rate": -1.0}, r"gates_learning_rate=-1\.0 is negative"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"final_fraction": 1.5}, r"final_fraction=1\.5"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0\.9, 1\.0\)"),
        ({"epsilon": 0.0}, r"epsilon=0\.0"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1"),
    ],
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(RunError, match=said):
        OptimizerSettings(**wrong)
