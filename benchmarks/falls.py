"""Ways for gates to get from the whole model to a target, as switches of stage 1: what the table ``falls`` compares."""

from typing import Any

LEARNED: dict[str, dict[str, Any]] = {
    "exact": {},
    "gradual": {},
    "in order": {"fall.order": "ranked"},
    "in order, noise ends": {"fall.order": "ranked", "draws.noise_until_fraction": 0.8},
    "in order, hard": {"fall.order": "ranked", "draws.hard_from_fraction": 0.8},
    "in order, repaired in stages": {"fall.order": "ranked", "fall.stages": 4},
    "free": {},
    "free, noise ends": {"draws.noise_until_fraction": 0.8},
    "free, hard": {"draws.hard_from_fraction": 0.8},
    "free, repaired in stages": {"fall.stages": 4},
    "free, all": {
        "fall.stages": 4,
        "draws.noise_until_fraction": 0.8,
        "draws.hard_from_fraction": 0.8,
    },
    "free, gates by the teacher": {"objective": "distillation"},
    "free, gates by the text": {"objective": "language"},
}
"""Keys of ``model.pruning`` by the name of the way. All but ``exact`` start from the whole model. Gates that are free
are soft and noisy at first, so that they may change the order of the ranking."""
FREE = {"exact.start_sharpness": 2.0, "exact.final_sharpness": 100.0, "exact.noise": 1.0}
FREE_RATE, SHARP_RATE = 0.3, 0.1
"""Learning rates of gates."""


def switches(way: str, *, steps: int, repair: int) -> dict[str, Any]:
    """The flags of stage 1 of a way that learns its gates, in a run of ``steps`` steps in both stages.

    ``repair``: tokens to repair on, where the way has a cut to repair.
    """
    keys = dict(LEARNED[way])
    is_free = way.startswith("free")
    if is_free:
        keys |= FREE
    keys["sparsity_warmup_steps"] = 0 if way == "exact" else steps // 9
    if repair and (way == "exact" or "fall.stages" in keys):
        keys["repair.tokens"] = repair
    flags = {f"model.pruning.{key}": value for key, value in keys.items()}
    return flags | {"model.optimizer.gates_learning_rate": FREE_RATE if is_free else SHARP_RATE}
